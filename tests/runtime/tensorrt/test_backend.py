"""What the TensorRT backend does with its engines, which are stand-ins that run the model's modules."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from toprovar import signature
from toprovar.compiler.modules import build_modules
from toprovar.compiler.tensorrt.profiles import Limits, graph_profiles
from toprovar.errors import BackendError
from toprovar.models.loader import guidance_layers
from toprovar.pipeline.subject import Subject
from toprovar.plan import SparsityPlan
from toprovar.pruning import Pruning
from toprovar.runtime.backends.base import Controls
from toprovar.runtime.backends.tensorrt import TensorRTBackend
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.noise import logistic_noise
from toprovar.runtime.session import Session
from toprovar.runtime.tensorrt.engine import Engine

from ...compiler.tensorrt.small import small_plan
from ...compiler.test_export import CHANNELS, DEPTH, GRIDS, make_model
from ...tiny_nano import equal_bits, psnr
from .stand_in import StandInContext, StandInEngine, StandInRecorder, make_record

PRUNINGS = {
    "own, cached, reused": (Pruning("own_scale", (0,), "cached", reuses_guidance=True), True),
    "chunk, anchor": (Pruning("chunk_change", restoration="anchor"), False),
    "previous": (Pruning("previous_scale", (1,)), False),
}


@dataclass
class Made:
    """Two sessions with one model."""

    session: Session
    reference: Session
    engines: dict[str, StandInEngine]
    recorder: StandInRecorder

    @property
    def contexts(self) -> list[StandInContext]:
        return [context for engine in self.engines.values() for context in engine.contexts]

    @property
    def backend(self) -> TensorRTBackend:
        assert isinstance(self.session.backend, TensorRTBackend)
        return self.session.backend


def make(pruning: Pruning, patchify: bool) -> Made:
    loaded = make_model(patchify)
    record = loaded.record(GRIDS, guidance_layers((0, -1), DEPTH))
    plan = small_plan(record, pruning)
    if pruning.restoration == "anchor":
        plan = _evenly(plan)
    modules = build_modules(loaded, record, pruning)
    contracts = {name: modules[name][1] for name in ("prompt", "decode")}
    contracts["step"] = signature.by_token(modules["adaptive"][1])
    profiles = graph_profiles(contracts, record, plan, Limits(3, 6, CHANNELS))
    engines = {
        name: StandInEngine(*modules["adaptive" if name == "step" else name], make_record(name, one, profiles[name]))
        for name, one in contracts.items()
    }
    recorder, scratch = StandInRecorder(), torch.zeros(64, dtype=torch.uint8)
    wrapped = {
        name: Engine(engine, engine.record, "user managed", scratch, recorder)  # type: ignore[arg-type]
        for name, engine in engines.items()
    }
    subject = Subject(loaded, None, record, GRIDS)  # type: ignore[arg-type]
    constants = subject.constants(plan.ranking, plan.restoration)
    backend = TensorRTBackend(record, GRIDS, constants, wrapped, pruning, "cpu")
    reference = TorchBackend(record, GRIDS, constants, loaded, pruning)
    sampling = loaded.sampling(len(GRIDS))
    return Made(Session(backend, plan, sampling, None), Session(reference, plan, sampling, None), engines, recorder)


def _evenly(plan: SparsityPlan) -> SparsityPlan:
    """Anchors want as many tokens in every layer."""
    scales = (dataclasses.replace(one, kept=(max(one.tokens // 2, 1),) * DEPTH) for one in plan.scales)
    return dataclasses.replace(plan, scales=tuple(scales))


def texts(*tokens: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(count, CHANNELS)).astype(np.float32) for count in tokens]


@pytest.fixture(params=PRUNINGS.values(), ids=PRUNINGS.keys())
def made(request: pytest.FixtureRequest) -> Made:
    return make(*request.param)


@pytest.fixture
def simple() -> Made:
    return make(*PRUNINGS["previous"])


@pytest.mark.parametrize("guidance", [3.0, 1.0], ids=["guided", "no guidance"])
@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_the_same_images_as_torch(dense: bool, guidance: float, made: Made) -> None:
    for prompts in (texts(3), texts(1, 5, 2)):
        options = {"guidance_scale": guidance, "dense": dense, "batch_size": len(prompts), "generator": 7}
        own = made.session(prompts, **options).images
        expected = made.reference(prompts, **options).images
        for one, other in zip(own, expected, strict=True):
            assert equal_bits(one, other) == 1
            assert psnr(one.pixels, other.pixels) > 80


@pytest.mark.parametrize("alignment", [64, 1 << 20], ids=["in place", "copied"])
def test_new_keys_lie_behind_the_past(alignment: int, simple: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toprovar.runtime.tensorrt.slot.ALIGNMENT", alignment)
    own, expected = (one(texts(3)[0], generator=3).images[0] for one in (simple.session, simple.reference))
    assert equal_bits(own, expected) == 1
    backend = simple.backend
    state = backend.begin(texts(3), texts(3))
    addresses = set()
    for scale, (height, width) in enumerate(GRIDS):
        noise = logistic_noise(1, scale, height * width, backend.model.code_bits)[None]
        state = backend.step(state, Controls(noise, 2.0, 1.0, 9.0, None)).state
        cache = state.tensors["past_key.1"].tensor
        addresses.add(cache.data_ptr())
        assert len(cache) == sum(rows * columns for rows, columns in GRIDS[: scale + 1])
        assert cache.is_contiguous()
    assert len(addresses) == 1


def test_one_context_a_profile_shares_memory(simple: Made) -> None:
    simple.session(texts(2)[0])
    simple.session(texts(2)[0], dense=True)
    assert len({context.memory for context in simple.contexts}) == 1
    step = simple.engines["step"]
    used = [step.record.profiles[context.profile].name for context in step.contexts]
    assert len(set(used)) == len(used)
    assert {"scale 3, sparse", "scale 3, dense"} <= set(used)


def test_nothing_is_bound_or_captured_twice(simple: Made) -> None:
    for _ in range(2):
        simple.session(texts(2)[0])
    before = [context.bindings for context in simple.contexts], simple.recorder.graphs
    again = simple.session(texts(2)[0], generator=5).images[0]
    assert before == ([context.bindings for context in simple.contexts], simple.recorder.graphs)
    assert equal_bits(again, simple.reference(texts(2)[0], generator=5).images[0]) == 1


def run(backend: TensorRTBackend, state: object, scales: Sequence[int], seed: int = 0) -> object:
    for scale in scales:
        height, width = GRIDS[scale]
        noise = np.repeat(logistic_noise(seed, scale, height * width, backend.model.code_bits)[None], state.images, 0)  # type: ignore[attr-defined]
        state = backend.step(state, Controls(noise, 2.0, 1.0, 9.0, None)).state  # type: ignore[arg-type]
    return state


def test_two_generations_do_not_meet(simple: Made) -> None:
    backend = simple.backend
    first, second = (backend.begin(texts(2), texts(2)) for _ in range(2))
    first, second = run(backend, first, [0, 1]), run(backend, second, [0, 1], seed=1)
    images = [backend.decode(run(backend, state, [2, 3], seed)) for state, seed in ((first, 0), (second, 1))]  # type: ignore[arg-type]
    alone = [
        backend.decode(run(backend, backend.begin(texts(2), texts(2)), range(4), seed))  # type: ignore[arg-type]
        for seed in (0, 1)
    ]
    for one, other in zip(images, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_scale_may_be_run_again_from_the_state_before_it(simple: Made) -> None:
    backend = simple.backend
    state = run(backend, backend.begin(texts(2), texts(2)), [0, 1])
    first = run(backend, state, [2, 3])
    expected = backend.decode(first)  # type: ignore[arg-type]
    middle = run(backend, state, [2], seed=4)
    again = run(backend, state, [2, 3])
    np.testing.assert_array_equal(backend.decode(again), expected)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="the state at scale 3 is out of date"):
        run(backend, middle, [3])


def test_selected_images_go_on(simple: Made) -> None:
    backend = simple.backend
    state = run(backend, backend.begin(texts(1, 3, 2), texts(1, 1, 1)), [0, 1])
    whole = backend.decode(run(backend, state, [2, 3]))  # type: ignore[arg-type]
    state = run(backend, backend.begin(texts(1, 3, 2), texts(1, 1, 1)), [0, 1])
    part = backend.decode(run(backend, backend.select(state, [2, 0]), [2, 3]))  # type: ignore[arg-type]
    np.testing.assert_allclose(part, whole[[2, 0]], atol=1e-4)


def test_more_images_than_the_engines_take(simple: Made) -> None:
    with pytest.raises(BackendError, match=r"no profile of the engine prompt takes .*8, 6") as caught:
        simple.backend.begin(texts(2, 2, 2, 2), texts(2, 2, 2, 2))
    assert "fewer images" in str(caught.value.hint)


def test_counts_that_no_profile_has(simple: Made) -> None:
    backend = simple.backend
    state = run(backend, backend.begin(texts(2), None), [0, 1])
    noise = logistic_noise(0, 2, 12, backend.model.code_bits)[None]
    with pytest.raises(BackendError, match="no profile of the engine step for scale 2"):
        backend.step(state, Controls(noise, 1.0, 1.0, 9.0, (12, 5)))  # type: ignore[arg-type]


def test_an_engine_is_missing(simple: Made) -> None:
    backend = simple.backend
    with pytest.raises(BackendError, match="no engine for decode, step"):
        TensorRTBackend(backend.model, GRIDS, backend.constants, {"prompt": backend._engines["prompt"]}, device="cpu")
