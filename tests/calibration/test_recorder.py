"""One generation's sums and counts against numpy over everything at once."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from toprovar.calibration import recorder as module
from toprovar.calibration.principal_components import leading_ratio
from toprovar.calibration.recorder import EntropyRecorder
from toprovar.calibration.recording import HISTOGRAM_BINS
from toprovar.errors import CheckpointError

from .synthetic import GRIDS, HEADS, LAYERS, WIDTH, entropies, hiddens, record, show


@pytest.mark.parametrize(("seed", "together"), [(0, 1), (1, 1), (2, 2), (3, LAYERS)])
def test_sums_histograms_and_ratios(seed: int, together: int) -> None:
    recording = record(seed, together)
    for scale, (entropy, hidden) in enumerate(zip(entropies(seed), hiddens(seed), strict=True)):
        values = entropy.astype(np.float64)
        np.testing.assert_allclose(recording.entropy_sum[scale], values.sum(2), rtol=1e-14)
        np.testing.assert_allclose(recording.entropy_square[scale], (values**2).sum(2), rtol=1e-14)
        for layer in range(LAYERS):
            for head in range(HEADS):
                expected = np.histogram(values[layer, head], HISTOGRAM_BINS, (0, 1))[0]
                np.testing.assert_array_equal(recording.histogram[scale, layer, head], expected)
            ratio = leading_ratio(torch.from_numpy(hidden[layer]))
            assert recording.principal_component_ratio[scale, layer] == pytest.approx(ratio, rel=1e-12)
    kinds = [array.dtype for array in (recording.entropy_sum, recording.entropy_square, recording.histogram)]
    assert kinds == [np.float64, np.float64, np.int32]
    assert recording.entropy_seconds > 0
    assert recording.principal_component_seconds > 0


def test_heads_and_layers_are_not_mixed() -> None:
    recorder = EntropyRecorder(((1, 2),), 2, 3)
    recorder.on_scale(0)
    for layer in (1, 0):
        values = (torch.arange(3.0)[:, None] + 3 * layer + torch.tensor([0.25, 0.75])) / 8
        recorder.on_attention(layer, values[None, None])
        recorder.on_hidden(layer, torch.ones(1, 1, 2, 4))
    recording = recorder.recording()
    np.testing.assert_allclose(recording.entropy_sum[0], (np.arange(6).reshape(2, 3) + 0.5) / 4)
    bins = np.argwhere(recording.histogram[0])
    assert bins.tolist() == [[n // 3, n % 3, n * 4 + extra] for n in range(6) for extra in (1, 3)]


def test_entropies_of_0_and_1_fall_into_the_outer_bins_and_rounding_beyond_does_not_count() -> None:
    recorder = EntropyRecorder(((2, 2),), 1, 1)
    recorder.on_scale(0)
    recorder.on_attention(0, torch.tensor([[[[0.0, -1e-7, 1.0, 1.0 + 1e-6]]]]))
    recorder.on_hidden(0, torch.ones(1, 1, 4, 4))
    recording = recorder.recording()
    assert recording.histogram[0, 0, 0].tolist() == [2, *[0] * (HISTOGRAM_BINS - 2), 2]
    assert (recording.entropy_sum.item(), recording.entropy_square.item()) == (2.0, 2.0)


@pytest.mark.parametrize("told", [1, 2, LAYERS])
def test_ratios_do_not_depend_on_how_many_gram_matrices_wait(told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    together = record(3).principal_component_ratio
    solved: list[int] = []
    every = module.leading_ratios_of

    def counting(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> list[torch.Tensor]:
        solved.append(sum(len(energies) for _, energies in batches))
        return every(batches)

    monkeypatch.setattr(module, "_GRAM_BYTES", 2 * WIDTH * WIDTH * 8)
    monkeypatch.setattr(module, "leading_ratios_of", counting)
    np.testing.assert_allclose(record(3, told).principal_component_ratio, together, rtol=1e-12)
    assert max(solved[-2:]) == 2
    assert sum(solved) == LAYERS * len(GRIDS)


def test_one_call_solves_a_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    every = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda grams: (shapes.append(tuple(grams.shape)), every(grams))[1])
    record(0)
    assert shapes == [(LAYERS, n, n) for n in (1, 4, 8)]


def test_a_recorder_forgets() -> None:
    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    show(recorder, 1, scales=(0, 1))  # broken off
    show(recorder, 2)
    again, expected = recorder.recording(), record(2)
    np.testing.assert_array_equal(again.entropy_sum, expected.entropy_sum)
    np.testing.assert_array_equal(again.histogram, expected.histogram)
    with pytest.raises(ValueError, match="not every scale and layer was observed"):
        recorder.recording()
    # what was handed out is not written to any more
    show(recorder, 4)
    np.testing.assert_array_equal(again.entropy_sum, expected.entropy_sum)


def test_nothing_of_the_generation_is_held_after_it() -> None:
    def tensors() -> int:
        gc.collect()
        return sum(type(one) is torch.Tensor for one in gc.get_objects())

    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    before = tensors()
    show(recorder, 0)
    assert tensors() > before
    recorder.recording()
    assert tensors() == before


@pytest.mark.parametrize("missing", ["scale", "layer", "components"])
def test_what_was_never_seen(missing: str) -> None:
    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    show(recorder, 0, scales=(0, 1) if missing == "scale" else range(3))
    if missing == "layer":
        recorder = EntropyRecorder(GRIDS, LAYERS + 1, HEADS)
        show(recorder, 0)
    if missing == "components":
        recorder.on_scale(0)
        recorder.on_attention(0, torch.zeros(1, 1, HEADS, 1))
    with pytest.raises(ValueError, match="not every scale and layer was observed"):
        recorder.recording()


@pytest.mark.parametrize("shape", [(1, 2, HEADS, 3), (1, 2, HEADS + 1, 4)])
def test_entropies_of_another_size(shape: tuple[int, ...]) -> None:
    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    recorder.on_scale(1)
    with pytest.raises(ValueError, match=r"expected \(2, 4\)"):
        recorder.on_attention(0, torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_numbers_overflow(value: float) -> None:
    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    recorder.on_scale(1)
    hidden = torch.zeros(1, 2, 4, WIDTH)
    hidden[0, 1] = value
    recorder.on_hidden(1, hidden)  # the unconditional row does not count
    hidden[0, 0, 3, 2] = value
    recorder.on_hidden(2, hidden)
    with pytest.raises(CheckpointError, match="layer 2 computes numbers that are not finite at scale 1"):
        recorder.on_scale(2)


def test_entropies_that_are_no_numbers() -> None:
    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    recorder.on_scale(1)
    entropy = torch.zeros(1, 2, HEADS, 4)
    recorder.on_attention(1, entropy)
    entropy[0, 0, 1, 2] = float("nan")
    recorder.on_attention(2, entropy)
    with pytest.raises(CheckpointError, match="attention of layer 2 computes numbers that are not finite at scale 1"):
        recorder.on_scale(2)
