"""Who may use the runtime's buffers, and what they leave behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from toprovar.errors import BackendError
from toprovar.plan import DepthRule
from toprovar.pruning import Pruning
from toprovar.runtime.backends.base import Controls, State
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.session import Session

from ...tiny_nano import equal_bits
from .small_model import GRIDS, features, generate_beside, make_model, make_plan, make_session


def session(rule: DepthRule | None = None, **options: Any) -> Session:
    loaded = make_model()
    plan = make_plan(
        loaded, Pruning("previous_scale", (0, 1)), lambda s, t: (t, t // 2, t // 3) if s > 2 else (t, t, t), rule
    )
    return make_session(loaded, plan, RuntimeOptions("fp32", captured=False, fused=False, text_multiple=1, **options))


def step(one: Session, state: State, seed: int = 0) -> State:
    height, width = GRIDS[state.scale]
    noise = np.random.default_rng(seed).normal(size=(state.images, height * width, 16)).astype(np.float32)
    return one.backend.step(state, Controls(noise, 3.0, 1.0, float("inf"), None)).state


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Callable[[Session], None]:
    """Leaves a session no memory for another slot."""
    return lambda one: monkeypatch.setattr(one.backend._runtime._pool, "_fits", lambda *_: False)


def test_a_generation_that_gave_way_says_so(full: Callable[[Session], None]) -> None:
    with session() as one:
        first = step(one, one.begin(features()))
        full(one)
        second = step(one, one.begin(features(seed=1)))
        with pytest.raises(BackendError, match="this generation, at scale 1, was given up when another was begun"):
            step(one, first)
        step(one, second)


def test_generations_of_one_thread_take_turns() -> None:
    with session() as one:
        first, second = one.begin(features()), one.begin(features(seed=1))
        alone = step(one, step(one, second))
        expected = one.backend.summed(alone)
        del alone
        first, second = step(one, first), step(one, second)
        first, second = step(one, first), step(one, second)
        assert np.array_equal(one.backend.summed(second), expected)


def test_an_earlier_state_can_be_run_again_but_not_its_successor() -> None:
    with session() as one:
        first = step(one, one.begin(features()))
        second = step(one, first)
        expected = one.backend.summed(second)
        again = step(one, first)
        assert np.array_equal(one.backend.summed(again), expected)
        with pytest.raises(BackendError, match="was given up"):
            step(one, second)


def test_a_slot_of_another_size_is_dropped_where_memory_is_short(full: Callable[[Session], None]) -> None:
    with session() as one:
        one(features())
        full(one)
        one([features(), features(seed=1)], batch_size=2)
        assert [tenancy.slot.images for tenancy in one.backend._runtime._pool._tenancies] == [2]


def test_a_second_generation_at_once_is_refused() -> None:
    with session() as one:
        alone = one(features()).images[0]
        made, refused = generate_beside(one, features(), lambda: one(features(seed=1)))
        assert refused == ["a generation is running in another thread, and a session runs one at a time"]
        assert np.array_equal(made.pixels, alone.pixels)
        one(features(seed=1))
        assert len(refused) == 1


def test_what_a_generation_made_is_its_own() -> None:
    """And Pillow's copy of the picture is made when it is asked for."""
    with session() as one:
        made = one([features(), features(seed=1)], batch_size=2).images[1]
        assert "image" not in vars(made)
        own = (made.picture, made.pixels, *made.bits)
        before = [array.copy() for array in own]
        for seed in (2, 3):
            one([features(seed=seed), features(seed=seed)], generator=seed, batch_size=2)
        assert all(np.array_equal(array, kept) for array, kept in zip(own, before, strict=True))
    assert made.picture.shape == (*made.image.size[::-1], 3)
    assert np.array_equal(np.asarray(made.image), before[0])
    assert made.image is made.image


def test_what_a_dead_thread_began_is_in_nobodys_way() -> None:
    with session() as one:
        left: list[State] = []
        thread = threading.Thread(target=lambda: left.append(step(one, one.begin(features()))))
        thread.start()
        thread.join()
        one(features(seed=1))
        assert step(one, left[0]).scale == 2


def test_parts_of_a_batch_go_into_slots_that_are_there() -> None:
    """A slot that was made within a call serves a batch that parts, which is done outside."""
    rule = DepthRule("low_entropy_ratio", 2, 0.0, (), (3,))
    prompts = [features(3 + index, index) for index in range(3)]
    values = sorted(one.statistic or 0.0 for one in session(rule)(prompts, batch_size=3).images)
    rule = DepthRule("low_entropy_ratio", 2, 0.0, ((values[0] + values[-1]) / 2,), (3, 4))
    with session(rule) as one:
        alone = one(prompts).images
        together = one(prompts, batch_size=3).images
        assert {image.depth for image in together} == {3, 4}
        for first, second in zip(alone, together, strict=True):
            assert equal_bits(first, second) == 1


def test_a_closed_session_says_so() -> None:
    one = session()
    with one:
        one(features())
    one.backend.close()
    assert not hasattr(one.backend._runtime, "_engine")
    with pytest.raises(BackendError, match="this session is closed"):
        one(features())


@pytest.mark.parametrize(
    ("reason", "said", "again"),
    [
        ("CUDA error: an illegal memory access was encountered", "the GPU failed", False),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "the GPU failed", False),
        ("CUDA error: out of memory", "the GPU is out of memory", True),
    ],
)
def test_faults_of_a_gpu(reason: str, said: str, again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with session() as one:
        before = one(features()).images[0]
        with pytest.raises(BackendError, match=said), one.backend._runtime._guarded():
            raise RuntimeError(reason)
        if again:
            assert np.array_equal(one(features()).images[0].pixels, before.pixels)
        else:
            with pytest.raises(BackendError, match="cannot go on: the GPU failed"):
                one(features())


def test_a_mistake_is_no_fault_of_the_gpu() -> None:
    with session() as one, pytest.raises(RuntimeError, match="size mismatch"), one.backend._runtime._guarded():
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp8"])
def test_an_estimate_is_what_a_slot_takes(precision: Any) -> None:
    loaded = make_model()
    plan = make_plan(loaded, Pruning(), lambda s, t: (t, t, t))
    with make_session(loaded, plan, RuntimeOptions(precision, captured=False, fused=False, text_multiple=1)) as one:
        one([features(), features(seed=1)], batch_size=2)
        runtime = one.backend._runtime
        slot = runtime._pool._tenancies[0].slot
        tensors = [value for value in vars(slot).values() if isinstance(value, torch.Tensor)] + slot.cache
        tensors += [*slot._pairs.values(), *slot._next_pairs.values()]
        taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        item = runtime._options.dtype.itemsize
        assert sum(slot.shapes.bytes_of(4, 2, item).values()) == pytest.approx(taken, rel=0.02)
        layers = runtime._engine.weights.layers
        held = sum(_bytes(part) for layer in layers for part in vars(layer).values())
        assert held <= runtime.estimate.weights


def _bytes(part: Any) -> int:
    if isinstance(part, torch.Tensor):
        return part.numel() * part.element_size()
    return sum(_bytes(value) for value in vars(part).values())
