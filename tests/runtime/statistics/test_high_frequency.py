"""SkipVAR's change of edges, by hand and against torch's convolution."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from toprovar.models.geometry import scale_constants
from toprovar.plan import DepthRule
from toprovar.runtime.statistics.base import SeenScale
from toprovar.runtime.statistics.high_frequency import STATISTIC, edges, high_frequency, sobel_magnitude

RULE = DepthRule("high_frequency", 1, None, (), (2,))
SIDES = (1, 2, 3, 4, 6, 8)


class FakeBackend:
    """Decodes codes to an image of their own size, thrice their first channel."""

    def __init__(self, sides: tuple[int, ...]) -> None:
        self.grids = tuple((side, side) for side in sides)
        self.constants = scale_constants(self.grids, 8, self.grids)
        self.sizes: list[tuple[int, ...]] = []

    def summed(self, state: Any) -> np.ndarray:
        return state.codes

    def decode_codes(self, codes: np.ndarray) -> np.ndarray:
        self.sizes.append(codes.shape)
        return np.repeat(codes[:, :1], 3, axis=1)


def state(codes: np.ndarray) -> Any:
    return SimpleNamespace(codes=codes.astype(np.float32))


def test_sobel_of_a_ramp() -> None:
    ramp = np.tile(np.arange(5.0), (4, 1))[None]
    magnitude = sobel_magnitude(np.stack([ramp[0], ramp[0].T[:4, :4].repeat(1, axis=0)[:, [0, 1, 2, 3, 3]] * 0]))
    # a step of one a column, weighted 1 2 1 over 2 columns
    assert magnitude[0, 1:-1, 1:-1].tolist() == [[8.0] * 3] * 2
    assert magnitude[1].max() == 0


def test_sobel_is_torchs_convolution() -> None:
    image = np.random.default_rng(0).normal(size=(2, 7, 9)).astype(np.float32)
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    kernels = torch.stack([across, across.T]).unsqueeze(1)
    gradients = F.conv2d(torch.from_numpy(image).unsqueeze(1), kernels, padding=1)
    np.testing.assert_allclose(sobel_magnitude(image), gradients.square().sum(1).sqrt().numpy(), rtol=1e-5, atol=1e-5)


def test_the_difference_is_of_each_image() -> None:
    before, after = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    after[0] = 2.0
    after[1, 0, 0] = -6.0
    assert high_frequency(before, after).tolist() == [2.0, 0.5]


@pytest.mark.parametrize(("scales", "side"), [(6, 6), (5, 6), (4, 4), (2, 2), (1, 1)])
def test_the_thumbnail_has_the_fifth_grid_or_the_last(scales: int, side: int) -> None:
    backend = FakeBackend(SIDES[:scales])
    final = SIDES[scales - 1]
    codes = np.random.default_rng(1).normal(size=(2, 3, final, final)).astype(np.float32)
    edges(backend, state(codes))  # type: ignore[arg-type]
    assert backend.sizes == [(2, 3, side, side)]
    small = F.interpolate(torch.from_numpy(codes), size=(side, side), mode="bilinear").numpy()
    shown = edges(backend, state(codes))  # type: ignore[arg-type]
    np.testing.assert_allclose(shown, sobel_magnitude(small[:, 0]), rtol=1e-4, atol=1e-5)


def test_only_what_the_scale_added_counts() -> None:
    backend: Any = FakeBackend(SIDES)
    codes = np.random.default_rng(2).normal(size=(2, 3, 8, 8))
    more = codes.copy()
    more[1] *= 3
    seen = SeenScale(backend, state(codes), state(more), None)
    measured = STATISTIC(RULE).measure(seen)
    assert measured.shape == (2,)
    assert measured[0] == 0
    expected = 2 * edges(backend, state(codes))[1].mean()
    assert measured[1] == pytest.approx(expected, rel=1e-5)
