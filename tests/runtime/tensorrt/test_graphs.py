"""Engines run on arrays of the host, one call at a time; engines are stand-ins that run the model's modules."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from toprovar import signature
from toprovar.compiler.modules import build_modules
from toprovar.compiler.tensorrt.profiles import Limits, graph_profiles
from toprovar.compiler.tensorrt.verify import EngineVerifier
from toprovar.compiler.verify import Case
from toprovar.pipeline.subject import Subject
from toprovar.pruning import Pruning
from toprovar.runtime.session import Session
from toprovar.runtime.tensorrt.engine import Engine
from toprovar.runtime.tensorrt.graphs import EngineGraphs

from ...compiler.tensorrt.small import small_plan
from ...compiler.test_export import CHANNELS, GRIDS, make_model
from .stand_in import StandInEngine, make_record


def test_engines_compute_what_the_modules_do() -> None:
    """Every call of a sparse and a dense generation, empty caches of the first scale among them."""
    loaded = make_model(False)
    record, pruning = loaded.record(GRIDS), Pruning("previous_scale", (1,))
    plan = small_plan(record, pruning)
    modules = build_modules(loaded, record, pruning)
    contracts = {name: modules[name][1] for name in ("prompt", "decode")}
    contracts["step"] = signature.by_token(modules["adaptive"][1])
    profiles = graph_profiles(contracts, record, plan, Limits(2, 6, CHANNELS))
    scratch = torch.zeros(64, dtype=torch.uint8)
    engines = {}
    for name, contract in contracts.items():
        own = make_record(name, contract, profiles[name])
        made = StandInEngine(*modules["adaptive" if name == "step" else name], own)
        engines[name] = Engine(made, own, "user managed", scratch, None)
    graphs = EngineGraphs(engines, "cpu")
    verifier = EngineVerifier(modules, contracts, 1, "float32", {"engines": graphs})
    checks, kinds = [], set()

    def check(graph: str, scale: int | None, feed: Mapping[str, np.ndarray]) -> None:
        checks.extend(verifier.check(Case(graph, scale, feed)))
        kinds.add((graph, scale))

    subject = Subject(loaded, None, record, GRIDS)  # type: ignore[arg-type]
    backend = subject.torch_backend(plan.ranking, plan.restoration)
    backend.tap = check
    session = Session(backend, plan, loaded.sampling(len(GRIDS)), None)
    text = np.random.default_rng(0).normal(size=(3, CHANNELS)).astype(np.float32)
    session(text)
    session(text, dense=True)
    assert {("dense", 0), ("adaptive", 2), ("decode", None), ("prompt", None)} <= kinds
    assert [one for one in checks if one.failures] == []
    # Nothing of a call is kept.
    assert not any(engine._programs for engine in engines.values())
