"""A subject's graphs: exported once for everything that plans may share, and checked against the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from toprovar import interruption
from toprovar.compiler.build import build_for_onnxruntime
from toprovar.compiler.export_onnx import export_graph
from toprovar.compiler.graph_check import GraphCheck
from toprovar.compiler.modules import build_modules
from toprovar.compiler.trace import trace_graph
from toprovar.compiler.verify import Case, GraphVerifier
from toprovar.compiler.weights import save_graphs
from toprovar.pipeline.subject import Subject
from toprovar.plan import SparsityPlan
from toprovar.progress import Stages
from toprovar.pruning import Pruning
from toprovar.runtime.backends.onnxruntime import OnnxRuntimeBackend
from toprovar.runtime.session import Session

__all__ = ["BuiltGraphs", "GraphStore", "check_graphs"]


@dataclass(frozen=True)
class BuiltGraphs:
    """Graphs in a folder of their own.

    Attributes:
        folder: holds NAME.onnx and the weights.
        versions: of the engine that they were built for.
    """

    folder: Path
    versions: Mapping[str, str]


@dataclass
class GraphStore:
    """Builds graphs for ONNX Runtime on demand; plans that prune alike share them, whatever their counts and moments.

    Args:
        subject: the model.
        folder: where each build gets a folder.
        stages: told how far it is.
    """

    subject: Subject
    folder: Path
    stages: Stages
    _built: dict[Pruning, BuiltGraphs] = field(default_factory=dict)

    def graphs(self, plan: SparsityPlan) -> BuiltGraphs:
        """The graphs of a plan."""
        if plan.pruning not in self._built:
            self._built[plan.pruning] = self._build(plan, self.folder / f"graphs-{len(self._built)}")
        return self._built[plan.pruning]

    def session(self, plan: SparsityPlan) -> Session:
        """A session of the plan on ONNX Runtime."""
        subject, folder = self.subject, self.graphs(plan).folder
        constants = subject.constants(plan.ranking, plan.restoration)
        backend = OnnxRuntimeBackend(subject.record, subject.grids, constants, folder, plan.pruning)
        return subject.session(backend, plan)

    def _build(self, plan: SparsityPlan, folder: Path) -> BuiltGraphs:
        folder.mkdir(parents=True)
        subject = self.subject
        modules = build_modules(subject.loaded, subject.record, plan.pruning)
        channels = subject.loaded.backbone.config.text_channels
        observers = len(plan.ranking.observers)
        graphs = []
        for index, (name, (module, contract)) in enumerate(modules.items()):
            with interruption.deferred(f"the export of {name}"):
                traced = trace_graph(name, module, contract, subject.record, observers, channels)
                graphs.append(export_graph(traced, plan))
            self.stages.progress("export", index + 1, len(modules))
        with self.stages.stage("save"):
            save_graphs(graphs, folder)
        with self.stages.stage("build"):
            versions = build_for_onnxruntime(folder, [graph.name for graph in graphs])
        return BuiltGraphs(folder, versions)


def check_graphs(
    subject: Subject, plan: SparsityPlan, prompts: Sequence[str], folder: Path, stages: Stages
) -> list[GraphCheck]:
    """Replays a dense and a sparse generation of every prompt graph by graph against the model.

    Args:
        subject: the model.
        plan: what to run.
        prompts: what to draw.
        folder: holds the graphs.
        stages: told how far it is.
    """
    verifier = GraphVerifier(folder, build_modules(subject.loaded, subject.record, plan.pruning))
    total = 2 * len(prompts) * (len(subject.grids) + 3)  # text, prompt, scales, decode; sparse and dense
    checks: list[GraphCheck] = []

    def check(graph: str, scale: int | None, feed: dict[str, np.ndarray]) -> None:
        checks.append(verifier.check(Case(graph, scale, feed)))
        # A statistic may decode small pictures on the way, too.
        stages.progress("verify", len(checks), max(total, len(checks)))

    # Where the graphs run, whatever the subject runs on: the modules are the verifier's, too.
    reuses, host = plan.pruning.reuses_guidance, torch.device("cpu")
    backend = subject.torch_backend(plan.ranking, plan.restoration, reuses, device=host)
    backend.tap = check
    session = subject.session(backend, plan)
    for prompt in prompts:
        session(prompt)
        session(prompt, dense=True)
    return checks
