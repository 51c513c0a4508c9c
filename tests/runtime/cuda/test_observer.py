"""What the runtime tells an observer, call by call in fp32 on a CPU, is what the eager step tells one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from toprovar.calibration.recorder import EntropyRecorder
from toprovar.calibration.recording import Recording
from toprovar.errors import CheckpointError
from toprovar.pruning import Pruning
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.session import Session

from .small_model import DEPTH, GRIDS, HEADS, features, make_model, make_plan, make_session

PLAIN = RuntimeOptions.plain()


@dataclass
class Seen:
    """Copies of everything, in the order in which it came."""

    calls: list[tuple[str, int]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)

    def on_scale(self, scale: int) -> None:
        self.calls.append(("scale", scale))

    def on_attention(self, first: int, entropy: Tensor) -> None:
        self._keep("attention", first, entropy)

    def on_hidden(self, first: int, hidden: Tensor) -> None:
        self._keep("hidden", first, hidden)

    def _keep(self, name: str, first: int, layers: Tensor) -> None:
        self.calls.extend((name, first + index) for index in range(len(layers)))
        self.tensors.extend(layers.clone())

    def in_order(self) -> dict[tuple[int, str, int], Tensor]:
        """By scale, name and layer, however many layers were told at once."""
        scale, kept, tensors = -1, {}, iter(self.tensors)
        for name, index in self.calls:
            if name == "scale":
                scale = index
            else:
                kept[scale, name, index] = next(tensors)
        return dict(sorted(kept.items()))


def observed(options: RuntimeOptions | None, observer: Any, insertion: tuple[int, ...] = (0,)) -> Session:
    """Of a dense plan."""
    loaded = make_model()
    plan = make_plan(loaded, Pruning(), lambda s, t: (t, t, t), insertion=insertion)
    return make_session(loaded, plan, options, insertion, observer=observer)


@pytest.mark.parametrize("insertion", [(0,), (-1,), (0, -2)])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("guidance", [None, 1.0])
def test_an_observer_is_told_the_same(insertion: tuple[int, ...], images: int, guidance: float | None) -> None:
    told = []
    for options in (None, PLAIN):
        seen = Seen()
        prompts = [features(3 + index, index) for index in range(images)]
        with observed(options, seen, insertion) as session:
            session(prompts, generator=7, batch_size=images, guidance_scale=guidance)
        told.append(seen)
    eager, own = told
    assert eager.calls[: 2 * DEPTH + 1] == [
        ("scale", 0),
        *((name, layer) for layer in range(DEPTH) for name in ("attention", "hidden")),
    ]
    assert list(own.in_order()) == list(eager.in_order())
    assert len(own.tensors) == 2 * DEPTH * len(GRIDS)
    for one, other in zip(own.in_order().values(), eager.in_order().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-4)
    entropies = torch.cat([one.flatten() for (_, name, _), one in own.in_order().items() if name == "attention"])
    assert -1e-6 < entropies.min() < entropies.max() < 1 + 1e-6


def recording(options: RuntimeOptions | None) -> Recording:
    recorder = EntropyRecorder(GRIDS, DEPTH, HEADS)
    with observed(options, recorder) as session:
        session(features(), generator=3)
    return recorder.recording()


def test_a_recorder_records_the_same() -> None:
    own, eager = recording(PLAIN), recording(None)
    np.testing.assert_allclose(own.entropy_sum, eager.entropy_sum, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(own.entropy_square, eager.entropy_square, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(own.principal_component_ratio, eager.principal_component_ratio, atol=1e-4)
    # A value on the edge of two bins may fall into the other.
    assert np.abs(own.histogram - eager.histogram).sum() <= 0.01 * eager.histogram.sum()


def test_observing_changes_no_bit_of_the_image() -> None:
    images = []
    for observer in (None, Seen()):
        with observed(PLAIN, observer) as session:
            images.append(session(features(), generator=3).images[0])
    assert np.array_equal(images[0].pixels, images[1].pixels)


def test_only_dense_steps_are_observed() -> None:
    """As in the eager step: where tokens are ranked or left out, nobody is told."""
    loaded, seen = make_model(), Seen()
    plan = make_plan(loaded, Pruning("deviation"), lambda s, t: (t, t // 2, t // 2) if s == 4 else (t, t, t))
    with make_session(loaded, plan, PLAIN, observer=seen) as session:
        session(features())
    scales = [index for name, index in seen.calls if name == "scale"]
    assert scales == [0, 1, 2]  # the fourth runs in full, too, but hands on what the last is ranked by


def test_an_observer_that_refuses_leaves_the_runtime_usable() -> None:
    class Strict(Seen):
        refuses = True

        def on_hidden(self, first: int, hidden: Tensor) -> None:
            super().on_hidden(first, hidden)
            if self.refuses:
                raise CheckpointError("layer 1 computes numbers that are not finite", "give another checkpoint")

    seen = Strict()
    with observed(PLAIN, seen) as session:
        with pytest.raises(CheckpointError, match="not finite"):
            session(features())
        seen.refuses = False
        seen.calls.clear()
        session(features())
    assert len(seen.calls) == len(GRIDS) * (2 * DEPTH + 1)


def test_memory_for_what_is_kept_counts() -> None:
    sessions = [observed(PLAIN, observer) for observer in (None, Seen())]
    runtimes = [session.backend._runtime for session in sessions]  # type: ignore[attr-defined]
    without, kept = (runtime.estimate for runtime in runtimes)
    rows, tokens, width = 2, 36, 64
    more = DEPTH * rows * tokens * 4 * (width + HEADS)
    assert kept.activations - without.activations == more
    assert dataclasses.replace(kept, activations=0) == dataclasses.replace(without, activations=0)
    slot = runtimes[1]._make_slot(1, 2)
    buffers = slot.observed(rows, tokens)
    assert buffers.entropy.nbytes + buffers.hidden.nbytes == more
