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
from toprovar.manifest import ModelRecord
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.loader import Defaults, LoadedModel, guidance_layers
from toprovar.pipeline.subject import Subject
from toprovar.plan import Ranking, SparsityPlan
from toprovar.pruning import Pruning
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session
from toprovar.signature import Signature

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


def make_plan(record: ModelRecord, pruning: Pruning) -> SparsityPlan:
    """Half of the tokens in the second layer, or without a selector the first layer left out at the last scale.

    Restorations that look at the whole scale get half of the tokens in both.
    """
    table = (((0.8,) * HEADS,) * len(pruning.observers),) * len(GRIDS) if pruning.observers else ()
    sorts = pruning.selector != "none"
    whole = pruning.restoration in ("anchor", "nearest")
    plan = with_kept(
        dataclasses.replace(
            dense_plan(GRIDS, Task(record, 1.0, 4)),
            ranking=Ranking(pruning.selector, pruning.observers, table, table),
            restoration=pruning.restoration,
        ),
        lambda s, t: (t // 2 if s and whole else t, t // 2 if s else t) if sorts else (t if s < 3 else 0, t),
    )
    late = "reused" if pruning.reuses_guidance else "full"
    scales = (dataclasses.replace(one, unconditional=late if s > 1 else "full") for s, one in enumerate(plan.scales))
    return dataclasses.replace(plan, scales=tuple(scales))


def compile_steps(
    loaded: LoadedModel, insertion: Sequence[int], pruning: Pruning, folder: Path
) -> tuple[list[Case], dict[str, tuple[nn.Module, Signature]]]:
    """Exports the two steps and records what they are called with in sparse generations."""
    record = loaded.record(GRIDS, guidance_layers(insertion, DEPTH))
    plan = make_plan(record, pruning)
    assert plan.pruning == pruning
    modules = build_modules(loaded, record, pruning)
    names = ["dense", "adaptive"]
    graphs = [
        export_graph(trace_graph(name, *modules[name], record, len(pruning.observers), CHANNELS), plan)
        for name in names
    ]
    save_graphs(graphs, folder)
    assert build_for_onnxruntime(folder, names).keys() == {"onnxruntime"}
    cases: list[Case] = []
    subject = Subject(loaded, None, record, GRIDS)  # type: ignore[arg-type]
    constants = subject.constants(plan.ranking, plan.restoration)
    backend = TorchBackend(record, GRIDS, constants, loaded, pruning)
    backend.tap = lambda *call: cases.append(Case(*call))
    session = Session(backend, plan, loaded.sampling(len(GRIDS)), None)
    rng = np.random.default_rng(0)
    for tokens, guidance in ((1, 3.0), (5, 1.0)):
        session(rng.normal(size=(tokens, CHANNELS)).astype(np.float32), guidance_scale=guidance)
    return [case for case in cases if case.graph in names], modules


@pytest.mark.parametrize(
    ("patchify", "insertion", "pruning"),
    [
        (True, (0, -1), Pruning("previous_scale", (1,))),
        (False, (-1,), Pruning("own_scale", (0, 1))),
        (False, (0,), Pruning()),
        (True, (0,), Pruning("random", restoration="blank", reuses_guidance=True)),
        (False, (0,), Pruning("both_scales", (0,), "cached")),
        (False, (0,), Pruning("deviation", restoration="cached")),
        (True, (0,), Pruning("chunk_change", restoration="anchor")),
        (False, (0,), Pruning("structure_texture", restoration="nearest")),
    ],
    ids=[
        "patchify, guided twice",
        "guided in a layer",
        "unsorted",
        "blank, guidance reused",
        "cached",
        "deviation, cached",
        "change of a chunk, anchors, patchify",
        "structure and texture, nearest",
    ],
)
def test_onnxruntime_agrees_with_torch(
    patchify: bool, insertion: tuple[int, ...], pruning: Pruning, tmp_path: Path
) -> None:
    cases, modules = compile_steps(make_model(patchify), insertion, pruning, tmp_path)
    assert [case.graph for case in cases].count("adaptive") >= (4 if pruning.selector != "none" else 2)
    verifier = GraphVerifier(tmp_path, modules)
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
