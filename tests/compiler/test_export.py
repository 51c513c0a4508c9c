"""Kinds of model that nano is not: spatial patchify, guidance inside a layer, nothing observed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from toprovar.calibration.policies.dense import dense_plan
from toprovar.calibration.policy import Task
from toprovar.compiler.build import build_for_onnxruntime
from toprovar.compiler.export_onnx import export_graph
from toprovar.compiler.modules import build_modules
from toprovar.compiler.trace import trace_graph
from toprovar.compiler.verify import Case, GraphVerifier
from toprovar.compiler.weights import save_graphs
from toprovar.errors import BackendError
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.loader import Defaults, LoadedModel, guidance_layers
from toprovar.pipeline import constants_of
from toprovar.plan import Ranking
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session

from ..tiny_nano import with_kept

DEPTH, HEADS, CHANNELS = 2, 2, 12
GRIDS = ((1, 1), (2, 2), (3, 4), (4, 5))


def make_model(patchify: bool) -> LoadedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        backbone = Infinity(InfinityConfig(DEPTH, 2, 32, HEADS, 64, 16, CHANNELS, 6, 4, 15))
        vae = BSQVAE(VAEConfig(4 if patchify else 16, (32, 32), (32, 32), 1, 1))
        for model in (backbone, vae):
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.2)
    pair = backbone.eval().requires_grad_(False), vae.eval().requires_grad_(False)
    return LoadedModel("infinity", "tiny", "0" * 64, *pair, patchify, None, Defaults(3.0, 1.0), "0.06M")


def compile_adaptive(
    loaded: LoadedModel, insertion: Sequence[int], observers: tuple[int, ...], folder: Path
) -> tuple[list[Case], dict[str, object]]:
    """Exports the adaptive graph and records what it is called with in two sparse generations."""
    record = loaded.record(GRIDS, guidance_layers(insertion, DEPTH))
    table = (((0.8,) * HEADS,) * len(observers),) * len(GRIDS)
    ranking = Ranking("previous_scale", observers, table, table) if observers else Ranking("none")
    base = dense_plan(GRIDS, Task(record, 1.0, 4))
    plan = with_kept(
        dataclasses.replace(base, ranking=ranking),
        lambda s, t: (t, t if not s or not observers else t // 2) if s < 3 or observers else (0, t),
    )
    modules = build_modules(loaded, record, observers)
    module, contract = modules["adaptive"]
    graph = export_graph(trace_graph("adaptive", module, contract, record, len(observers), CHANNELS), plan)
    save_graphs([graph], folder)
    assert build_for_onnxruntime(folder, ["adaptive"]).keys() == {"onnxruntime"}
    cases: list[Case] = []
    backend = TorchBackend(record, GRIDS, constants_of(loaded, GRIDS, plan.ranking), loaded, observers)
    backend.tap = lambda *call: cases.append(Case(*call))
    session = Session(backend, plan, loaded.sampling(len(GRIDS)), None)
    rng = np.random.default_rng(0)
    for tokens, guidance in ((1, 3.0), (5, 1.0)):
        session(rng.normal(size=(tokens, CHANNELS)).astype(np.float32), guidance_scale=guidance)
    return [case for case in cases if case.graph == "adaptive"], modules


@pytest.mark.parametrize(
    ("patchify", "insertion", "observers"),
    [(True, (0, -1), (1,)), (False, (-1,), (0, 1)), (False, (0,), ())],
    ids=["patchify, guided twice", "guided in a layer, two observers", "nothing observed"],
)
def test_onnxruntime_agrees_with_torch(
    patchify: bool, insertion: tuple[int, ...], observers: tuple[int, ...], tmp_path: Path
) -> None:
    cases, modules = compile_adaptive(make_model(patchify), insertion, observers, tmp_path)
    assert len(cases) >= (4 if observers else 3)
    verifier = GraphVerifier(tmp_path, modules)  # type: ignore[arg-type]
    checks = [verifier.check(case) for case in cases]
    assert [check.failures for check in checks] == [()] * len(cases)
    assert max(check.worst for check in checks) < 1e-4
    assert min(check.equal_bits or 0 for check in checks) >= 0.999


@pytest.mark.parametrize("insertion", [(), (1,), (-2,), (0, -7)])
def test_layers_that_cannot_be_guided(insertion: tuple[int, ...]) -> None:
    with pytest.raises(Exception, match="guidance insertion layers"):
        guidance_layers(insertion, DEPTH)


def test_a_graph_that_onnxruntime_refuses(tmp_path: Path) -> None:
    (tmp_path / "dense.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"ONNX Runtime refuses the graph 'dense' \("):
        build_for_onnxruntime(tmp_path, ["dense"])
