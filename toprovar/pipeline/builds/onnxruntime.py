"""ONNX graphs, which hold the weights."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from toprovar.compiler.graph_check import GraphCheck
from toprovar.manifest import Precision
from toprovar.pipeline.builds.base import Build, Written
from toprovar.pipeline.graphs import GraphStore, check_graphs
from toprovar.pipeline.subject import Subject
from toprovar.plan import SparsityPlan
from toprovar.progress import Stages
from toprovar.runtime.session import Session

__all__ = ["BUILD", "OnnxRuntimeBuild"]


class OnnxRuntimeBuild(Build):
    """Exports the model; see `Build`."""

    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
    precisions = ("fp32",)

    def __init__(
        self, subject: Subject, folder: Path, stages: Stages, precision: Precision | None, portable: bool = False
    ) -> None:
        super().__init__(subject, folder, stages, precision, portable)
        self._store = GraphStore(subject, folder, stages)

    def session(self, plan: SparsityPlan) -> Session:
        """On graphs that plans of one policy share."""
        return self._store.session(plan)

    def write(self, plan: SparsityPlan, target: Path, prompts: Sequence[str]) -> Written:
        """Puts the plan's graphs in their place."""
        built = self._store.graphs(plan)
        built.folder.rename(target / "graphs")
        shutil.rmtree(self.folder)
        return Written(built.versions)

    def verify(self, plan: SparsityPlan, target: Path, prompts: Sequence[str]) -> list[GraphCheck]:
        """Graph by graph."""
        return check_graphs(self.subject, plan, prompts, target / "graphs", self.stages)


BUILD = OnnxRuntimeBuild
