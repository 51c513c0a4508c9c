"""TensorRT: graphs that hold the weights, and engines for the GPU of this machine."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from toprovar.compiler.graph_check import GraphCheck
from toprovar.compiler.tensorrt.graphs import tensorrt_graphs
from toprovar.compiler.tensorrt.verify import EngineCheck
from toprovar.compiler.weights import save_graphs
from toprovar.errors import BackendError, ToProVARError, UsageError
from toprovar.input_ranges import INPUT_RANGES
from toprovar.manifest import Precision
from toprovar.pipeline.builds.base import Build, Written
from toprovar.pipeline.engine_checks import check_engine_graphs, engines_of, open_runners
from toprovar.pipeline.engines import EngineRequest, Source, build_engines, require_float8
from toprovar.pipeline.ranging import measure_ranges
from toprovar.plan import Ranking, SparsityPlan
from toprovar.runtime.session import Session
from toprovar.runtime.tensorrt.installed import open_library

__all__ = ["BUILD", "TensorRTBuild"]

_PRODUCTS = {"fp32": "float32", "bf16": "bfloat16", "fp8": "float8"}
_USUAL: Precision = "bf16"
_RANGED_PROMPTS = 8
"""Calibration prompts that fp8's scales are measured with, at most."""


class TensorRTBuild(Build):
    """Exports the model, and builds engines unless the folder is to be portable; see `Build`."""

    packages = ("torch", "onnx", "onnxscript", "polygraphy", "tensorrt", "triton", "numpy")
    precisions = ("bf16", "fp8", "fp32")

    @classmethod
    def check(cls, backend: str, precision: Precision | None, portable: bool = False) -> None:
        """Refuses a precision that there is not, and a machine that cannot build.

        Raises:
            UsageError: see `Build`.
            BackendError: TensorRT is not installed or too old, or there is no GPU, or none with products in fp8 where
                they are asked for.
        """
        super().check(backend, precision, portable)
        if portable:
            return
        try:
            machine = open_library().this_machine()
        except ToProVARError as error:
            raise BackendError(
                error.message,
                f"{error.hint}, or add --portable: it writes the graphs alone, and `toprovar build DIR` builds the "
                "engines where they are to run",
            ) from error
        if precision == "fp8":
            require_float8(machine)

    @property
    def runs_here(self) -> bool:
        """Engines are there."""
        return not self.portable

    def session(self, plan: SparsityPlan) -> Session:
        """Refused: an engine is built for one plan, and takes minutes.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "a plan cannot be searched for on TensorRT, whose engines are built for one plan", "give --target-flops"
        )

    def write(self, plan: SparsityPlan, target: Path, prompts: Sequence[str]) -> Written:
        """Writes graphs and engines."""
        subject, stages = self.subject, self.stages
        precision = self.precision or _USUAL
        folder = target / "graphs"
        folder.mkdir()
        ranges = None
        if precision == "fp8":
            watched = subject.session(subject.torch_backend(Ranking("none")))
            ranges = measure_ranges(watched, prompts[:_RANGED_PROMPTS], stages)
            ranges.save(target / INPUT_RANGES)
        graphs = tensorrt_graphs(
            subject.loaded,
            subject.record,
            plan,
            _PRODUCTS[precision],
            lambda done, total: stages.progress("export", done, total),
            ranges,
        )
        with stages.stage("save"):
            save_graphs(graphs, folder)
        if not self.portable:
            # The export took the model off the device; torch would keep the room that TensorRT is to build in.
            torch.cuda.empty_cache()
            plan_sha256 = hashlib.sha256(plan.to_json().encode()).hexdigest()
            source = Source(target, subject.record, plan, plan_sha256, subject.loaded.text_record())
            build_engines(source, EngineRequest(), stages)
        return Written(precision=precision)

    def verify(self, plan: SparsityPlan, target: Path, prompts: Sequence[str]) -> list[GraphCheck]:
        """Graph by graph: ONNX Runtime, and TensorRT where engines were built."""
        runners = open_runners(target, self.folder, engines_of(target))
        backend = self.subject.torch_backend(plan.ranking, plan.restoration, plan.pruning.reuses_guidance)
        reference = self.subject.session(backend, plan)
        try:
            checks = check_engine_graphs(target, reference, prompts, runners, self.stages)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
        return [_short(check) for check in checks]


def _short(check: EngineCheck) -> GraphCheck:
    name = f"{check.graph} in {check.runner}"
    worst = max((output.relative for output in check.outputs), default=0.0)
    return GraphCheck(name, check.scale, not check.failures, worst, check.equal_bits, check.failures)


BUILD = TensorRTBuild
