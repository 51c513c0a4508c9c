"""A small model exported for TensorRT, and what its modules were called with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import nn

from toprovar.calibration.policies.dense import dense_plan
from toprovar.calibration.policy import Task
from toprovar.compiler.graph import Graph
from toprovar.compiler.modules import build_modules
from toprovar.compiler.tensorrt.graphs import STEP, exported_graphs, lower
from toprovar.compiler.tensorrt.range_meter import RangeMeter
from toprovar.compiler.tensorrt.translate import engine_feed, engine_outputs
from toprovar.compiler.tensorrt.widen import widen
from toprovar.compiler.verify import Case
from toprovar.compiler.weights import save_graphs
from toprovar.input_ranges import InputRanges
from toprovar.manifest import ModelRecord
from toprovar.models.loader import guidance_layers
from toprovar.pipeline.subject import Subject
from toprovar.plan import Ranking, SparsityPlan
from toprovar.pruning import Pruning
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session
from toprovar.signature import Signature

from ...tiny_nano import with_kept
from ..test_export import CHANNELS, DEPTH, GRIDS, HEADS, make_model


@dataclass(frozen=True)
class Exported:
    """Graphs in a folder, and the calls of some generations."""

    folder: Path
    precision: str
    record: ModelRecord
    plan: SparsityPlan
    graphs: dict[str, Graph]
    modules: dict[str, tuple[nn.Module, Signature]]
    cases: list[Case]
    ranges: InputRanges

    def sessions(self) -> dict[str, ort.InferenceSession]:
        """Every graph in ONNX Runtime; all but float32 ones as their float32 twins."""
        sessions = {}
        for name in self.graphs:
            path = self.folder / f"{name}.onnx"
            if self.precision != "float32":
                twin = self.folder / f"{name}_wide.onnx"
                ir.save(widen(ir.load(path)), twin, external_data=f"{name}_wide.bin")
                path = twin
            sessions[name] = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        return sessions

    def run(self, session: ort.InferenceSession, case: Case) -> dict[str, np.ndarray]:
        """A case in ONNX Runtime, by the graph's own names."""
        name = graph_of(case)
        contract = self.graphs[name].signature
        feed = dict(case.feed) if name != STEP else engine_feed(case.feed, contract, len(self.plan.ranking.observers))
        return dict(zip(contract.outputs, session.run(list(contract.outputs), feed), strict=True))

    def expected(self, case: Case) -> dict[str, np.ndarray]:
        """The module's own results, the cache by token and without what was in it."""
        module, contract = self.modules[case.graph]
        tensors = [torch.from_numpy(np.asarray(case.feed[name], order="C")) for name in contract.inputs]
        with torch.inference_mode():
            results = module(*tensors)
        results = results if isinstance(results, tuple) else (results,)
        named = dict(zip(contract.outputs, (result.numpy() for result in results), strict=True))
        return engine_outputs(named, case.feed)


def graph_of(case: Case) -> str:
    return STEP if case.graph in ("dense", "adaptive") else case.graph


def small_plan(record: ModelRecord, pruning: Pruning) -> SparsityPlan:
    """The second layer computes half of the tokens from the second scale on, and nothing of the last scale."""
    table = (((0.8,) * HEADS,) * len(pruning.observers),) * len(GRIDS) if pruning.observers else ()

    def kept(scale: int, tokens: int) -> tuple[int, ...]:
        return tokens, (tokens, tokens // 2, tokens // 2, 0)[scale]

    plan = dataclasses.replace(
        dense_plan(GRIDS, Task(record, 1.0, 4)),
        ranking=Ranking(pruning.selector, pruning.observers, table, table),
        restoration=pruning.restoration,
    )
    plan = with_kept(plan, kept)
    late = "reused" if pruning.reuses_guidance else "full"
    scales = (dataclasses.replace(one, unconditional=late if s > 1 else "full") for s, one in enumerate(plan.scales))
    return dataclasses.replace(plan, scales=tuple(scales))


def export_small(pruning: Pruning, patchify: bool) -> Model:
    """Exports once for all precisions, and draws images with and without guidance, sparse and dense."""
    loaded = make_model(patchify)
    record = loaded.record(GRIDS, guidance_layers((0, -1), DEPTH))
    plan = small_plan(record, pruning)
    assert plan.pruning == pruning
    exported = exported_graphs(loaded, record, plan)
    subject = Subject(loaded, None, record, GRIDS)  # type: ignore[arg-type]
    backend = TorchBackend(record, GRIDS, subject.constants(plan.ranking, plan.restoration), loaded, pruning)
    cases: list[Case] = []
    backend.tap = lambda *call: cases.append(Case(*call))
    session = Session(backend, plan, loaded.sampling(len(GRIDS)), None)
    rng = np.random.default_rng(0)
    with RangeMeter(loaded.backbone) as meter:
        for tokens, guidance, dense in ((1, 3.0, False), (5, 1.0, False), (3, 3.0, True)):
            session(rng.normal(size=(tokens, CHANNELS)).astype(np.float32), guidance_scale=guidance, dense=dense)
    ranges = InputRanges(record.sha256, ("features",) * 3, len(GRIDS), meter.largest())
    return Model(record, plan, exported, build_modules(loaded, record, pruning), cases, ranges)


@dataclass(frozen=True)
class Model:
    """An exported model before TensorRT's passes."""

    record: ModelRecord
    plan: SparsityPlan
    exported: list[Graph]
    modules: dict[str, tuple[nn.Module, Signature]]
    cases: list[Case]
    ranges: InputRanges

    def save(self, folder: Path, precision: str) -> Exported:
        """Runs the passes and writes the graphs."""
        graphs = [lower(graph, self.plan, precision, self.ranges) for graph in self.exported]
        save_graphs(graphs, folder)
        named = {graph.name: graph for graph in graphs}
        return Exported(folder, precision, self.record, self.plan, named, self.modules, self.cases, self.ranges)
