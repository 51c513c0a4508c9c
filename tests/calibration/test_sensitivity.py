"""What a pruned layer does to the logits, on a generation made up for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from toprovar.calibration.sensitivity import (
    LAYER_KEPT,
    MODES,
    SCALE_KEPT,
    bernoulli_divergence,
    measure_layers,
    measure_scales,
)
from toprovar.pruning import Unconditional

LAYERS, BITS = 3, 2


@dataclass
class Made:
    """Each missing token of layer l adds l + 1 to every logit difference of the scale, and a tenth to the next."""

    source: Scale
    kept: Sequence[int]
    unconditional: Unconditional

    @property
    def shift(self) -> float:
        missing = [(layer + 1) * (self.source.tokens - kept) for layer, kept in enumerate(self.kept)]
        return sum(missing) + {"full": 0, "reused": 0.5, "omitted": 5}[self.unconditional]

    @property
    def differences(self) -> np.ndarray:
        return np.full((self.source.tokens, BITS), -1.0) + self.shift

    def next_differences(self) -> np.ndarray:
        self.source.looked_ahead += 1
        return np.full((4, BITS), 0.3) + self.shift / 10

    def picture(self) -> np.ndarray:
        """A hundredth for each unit of shift."""
        return np.full((3, 2, 2), self.shift / 100)


@dataclass
class Scale:
    scale: int
    tokens: int
    last: bool
    noise: np.ndarray = field(default_factory=lambda: np.zeros((1, BITS)))
    certain: float = 3.0
    attempts: int = 0
    looked_ahead: int = 0

    def attempt(self, kept: Sequence[int], unconditional: Unconditional = "full") -> Made:
        self.attempts += 1
        return Made(self, kept, unconditional)


def bernoulli(first: float, second: float) -> float:
    p, q = (1 / (1 + np.exp(-value)) for value in (first, second))
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def test_divergence() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 5, 3)) * 3
    expected = np.mean([bernoulli(a, b) for a, b in zip(first.ravel(), second.ravel(), strict=True)])
    assert bernoulli_divergence(first, second) == pytest.approx(expected, rel=1e-12)
    assert bernoulli_divergence(first, first) == 0
    huge = np.array([1e4, -1e4], np.float32)
    assert bernoulli_divergence(huge, -huge) == pytest.approx(1e4)


def test_every_layer_of_the_late_scales_is_tried_alone() -> None:
    scales = [Scale(0, 1, False), Scale(1, 4, False), Scale(2, 8, True)]
    record = measure_layers(scales, 3, LAYERS, 1)
    assert record.kl.shape == record.flips.shape == record.later_kl.shape == (3, LAYERS, len(LAYER_KEPT))
    assert np.isnan(record.kl[0]).all()
    assert scales[0].attempts == 0
    for scale, tokens in ((1, 4), (2, 8)):
        for layer in range(LAYERS):
            for index, share in enumerate(LAYER_KEPT):
                shift = (layer + 1) * (tokens - int(share * tokens))
                assert record.kl[scale, layer, index] == pytest.approx(bernoulli(-1, -1 + shift))
                assert record.flips[scale, layer, index] == (shift > 1)
                later = record.later_kl[scale, layer, index]
                if share == 0.5 and scale == 1:
                    assert later == pytest.approx(bernoulli(0.3, 0.3 + shift / 10))
                else:
                    assert np.isnan(later)
    assert scales[2].looked_ahead == 0


@pytest.mark.parametrize("guided", [True, False])
def test_late_scales_are_tried_as_a_whole(guided: bool) -> None:
    scales = [Scale(0, 1, False), Scale(1, 4, False), Scale(2, 8, True)]
    record = measure_scales(scales, 3, LAYERS, 1, guided)
    shape = 3, len(SCALE_KEPT) + len(MODES)
    assert record.kl.shape == record.flips.shape == record.later_kl.shape == record.picture_error.shape == shape
    assert np.isnan(record.picture_error[0]).all()
    for scale, tokens in ((1, 4), (2, 8)):
        for index, share in enumerate(SCALE_KEPT):
            shift = sum(range(1, LAYERS + 1)) * (tokens - int(share * tokens))
            assert record.kl[scale, index] == bernoulli_divergence(np.array([-1.0]), np.array([-1.0 + shift]))
            assert record.flips[scale, index] == (shift > 1)
            assert record.picture_error[scale, index] == pytest.approx((shift / 100) ** 2 / 4)
            if scale == 1:
                assert record.later_kl[scale, index] == pytest.approx(bernoulli(0.3, 0.3 + shift / 10))
        spared = slice(len(SCALE_KEPT), None)
        if guided:
            expected = [bernoulli(-1, -0.5), bernoulli(-1, 4)]
            np.testing.assert_allclose(record.kl[scale, spared], expected)
            assert record.flips[scale, spared].tolist() == [0, 1]
            np.testing.assert_allclose(record.picture_error[scale, spared], [(0.5 / 100) ** 2 / 4, (5 / 100) ** 2 / 4])
        else:
            assert np.isnan(record.kl[scale, spared]).all()
    assert scales[2].looked_ahead == 0
    assert np.isnan(record.later_kl[2]).all()
