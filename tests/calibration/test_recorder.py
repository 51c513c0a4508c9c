"""Running sums against numpy over everything at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toprovar.calibration.principal_components import leading_ratio
from toprovar.calibration.recorder import HISTOGRAM_BINS, EntropyRecorder
from toprovar.errors import CheckpointError

GRIDS = ((1, 1), (2, 3))
LAYERS, HEADS, PASSES = 2, 3, 5


def stream(seed: int = 0) -> list[list[list[torch.Tensor]]]:
    """Per pass, scale and layer: relative entropy [2, heads, tokens] of a conditional and an unconditional row."""
    generator = torch.Generator().manual_seed(seed)
    return [
        [[torch.rand(2, HEADS, h * w, generator=generator) for _ in range(LAYERS)] for h, w in GRIDS]
        for _ in range(PASSES)
    ]


def fill(recorder: EntropyRecorder, passes: list[list[list[torch.Tensor]]]) -> None:
    for scales in passes:
        for scale, layers in enumerate(scales):
            recorder.on_scale(scale)
            for layer, entropy in enumerate(layers):
                recorder.on_attention(layer, entropy)
                recorder.on_hidden(layer, entropy.transpose(1, 2))


def test_moments_histogram_and_ratio() -> None:
    recorder, passes = EntropyRecorder(GRIDS, LAYERS, HEADS), stream()
    fill(recorder, passes)
    measured = recorder.scales()
    assert [(s.height, s.width, s.keys) for s in measured] == [(1, 1, 1), (2, 3, 7)]
    for scale, one in enumerate(measured):
        for layer, stats in enumerate(one.layers):
            # only the conditional row counts
            values = torch.stack([scales[scale][layer][0] for scales in passes]).double().numpy()
            np.testing.assert_allclose(stats.entropy_mean, values.mean((0, 2)), rtol=1e-12)
            np.testing.assert_allclose(stats.entropy_deviation, values.std((0, 2)), rtol=1e-6)
            averaged = values.mean(1).ravel()
            expected = np.histogram(averaged, HISTOGRAM_BINS, (0, 1))[0]
            assert stats.histogram == tuple(expected.tolist())
            assert sum(stats.histogram) == PASSES * one.height * one.width
            ratios = [leading_ratio(scales[scale][layer][0].T) for scales in passes]
            assert stats.principal_component_ratio == pytest.approx(np.mean(ratios))
            assert stats.sensitivity is None


def test_entropies_of_0_and_1_fall_into_the_outer_bins() -> None:
    recorder = EntropyRecorder(((1, 2),), 1, 1)
    recorder.on_attention(0, torch.tensor([[[0.0, 1.0]]]))
    recorder.on_hidden(0, torch.ones(1, 2, 4))
    (layer,) = recorder.scales()[0].layers
    assert layer.histogram == (1, *[0] * (HISTOGRAM_BINS - 2), 1)
    assert (layer.entropy_mean, layer.entropy_deviation) == ((0.5,), (0.5,))


def test_memory_does_not_grow() -> None:
    def held(recorder: EntropyRecorder) -> int:
        return sum(value.nbytes for value in vars(recorder).values() if isinstance(value, np.ndarray))

    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    before, names = held(recorder), set(vars(recorder))
    for seed in range(3):
        fill(recorder, stream(seed))
    assert held(recorder) == before
    assert set(vars(recorder)) == names
    assert not any(isinstance(value, list | dict | torch.Tensor) for value in vars(recorder).values())


def test_a_layer_that_was_never_seen() -> None:
    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    fill(recorder, [stream()[0][:1]])
    with pytest.raises(ValueError, match="not every scale and layer was observed"):
        recorder.scales()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_numbers_overflow(value: float) -> None:
    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    recorder.on_scale(1)
    with pytest.raises(CheckpointError, match="layer 1 computes numbers that are not finite at scale 1"):
        recorder.on_hidden(1, torch.full((2, 6, 4), value))
