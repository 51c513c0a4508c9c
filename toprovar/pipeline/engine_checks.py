"""Replays generations graph by graph: the model's modules against what runs a TensorRT deployment's graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toprovar.compiler.modules import build_modules
from toprovar.compiler.tensorrt.contract import read_graph_file
from toprovar.compiler.tensorrt.onnx_graphs import OnnxGraphs
from toprovar.compiler.tensorrt.verify import EngineCheck, EngineVerifier, RunGraph
from toprovar.compiler.verify import Case
from toprovar.engines import ENGINES, Engines
from toprovar.progress import Stages
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session

__all__ = ["GraphRunners", "check_engine_graphs", "engines_of", "open_runners"]


@dataclass(frozen=True)
class GraphRunners:
    """What runs a deployment's graphs.

    Attributes:
        precision: of products, `float32`, `bfloat16` or `float8`.
        images: images that may run together.
        runners: by name.
    """

    precision: str
    images: int
    runners: Mapping[str, RunGraph]


def open_runners(folder: Path, scratch: Path, engines: Engines | None) -> GraphRunners:
    """ONNX Runtime, which runs the graphs with the plugin's function body, and TensorRT where there are engines.

    Args:
        folder: of the deployment.
        scratch: where ONNX Runtime's twins of the graphs are written.
        engines: the record of engines that fit this machine; None where there are none.
    """
    precision = read_graph_file(folder / "graphs" / "step.onnx").products
    runners: dict[str, RunGraph] = {"onnxruntime": OnnxGraphs(folder / "graphs", precision, scratch)}
    if engines is None:
        return GraphRunners(precision, 2, runners)
    from toprovar.runtime.tensorrt.graphs import EngineGraphs, load_engines

    runners["tensorrt"] = EngineGraphs(load_engines(folder, engines, low_vram=False, captured=False))
    return GraphRunners(precision, engines.images, runners)


def check_engine_graphs(
    folder: Path, reference: Session, prompts: Sequence[str | np.ndarray], found: GraphRunners, stages: Stages
) -> list[EngineCheck]:
    """Compares every call of dense and sparse generations, alone and in a batch.

    Args:
        folder: of the deployment.
        reference: a session of the plan on the model's own modules.
        prompts: what to draw.
        found: what to compare.
        stages: told how far it is.
    """
    backend = reference.backend
    if not isinstance(backend, TorchBackend):
        raise TypeError(f"{backend.name} has no modules to compare with")
    graphs = (path.stem for path in (folder / "graphs").glob("*.onnx"))
    contracts = {name: read_graph_file(folder / "graphs" / f"{name}.onnx").contract for name in graphs}
    verifier = EngineVerifier(
        build_modules(backend.loaded, backend.model, backend.pruning),
        contracts,
        len(backend.pruning.observers),
        found.precision,
        found.runners,
    )
    checks: list[EngineCheck] = []
    calls = 0
    batches: list[Sequence[str | np.ndarray]] = [[prompt] for prompt in prompts]
    if found.images > 1:
        batches.append([prompts[0], prompts[-1]])
    total = 2 * len(batches) * (len(backend.grids) + 3)  # text, prompt, scales, decode

    def check(graph: str, scale: int | None, feed: dict[str, np.ndarray]) -> None:
        nonlocal calls
        checks.extend(verifier.check(Case(graph, scale, feed)))
        calls += 1
        # A statistic may decode small pictures on the way, and a batch reads several texts.
        stages.progress("verify", calls, max(total, calls))

    backend.tap = check
    try:
        for batch in batches:
            for dense in (False, True):
                reference(batch, dense=dense, batch_size=len(batch))
    finally:
        backend.tap = None
    return checks


def engines_of(folder: Path) -> Engines | None:
    """The record of a deployment's engines; None where there are none.

    Raises:
        ArtefactError: it is damaged.
    """
    path = folder / ENGINES
    return Engines.load(path) if path.is_file() else None
