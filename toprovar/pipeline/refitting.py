"""Another deployment with a LoRA in its weights: merged into the graphs, and refitted into the engines."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path

from toprovar.compiler.tensorrt.lora import merge_lora, read_lora
from toprovar.deployment import PLAN, Deployment, file_sha256
from toprovar.deployment_writer import DeploymentWriter
from toprovar.engines import ENGINES, EngineFile
from toprovar.errors import BackendError
from toprovar.pipeline.engine_checks import engines_of
from toprovar.progress import Stages
from toprovar.runtime.tensorrt.installed import open_library
from toprovar.runtime.tensorrt.preflight import GRAPHS, check_engines

__all__ = ["add_lora"]


def add_lora(folder: Path, lora: Path, output: Path, strength: float, force: bool, stages: Stages) -> Mapping[str, int]:
    """Writes a deployment with a LoRA.

    Args:
        folder: a deployment for TensorRT, which stays as it is.
        lora: safetensors file.
        output: deployment to write; appears complete or not at all.
        strength: factor of the LoRA.
        force: replace an existing deployment.
        stages: told how far it is.

    Returns:
        How many weights changed, by graph.

    Raises:
        ToProVARError: the LoRA does not fit, or there are engines that cannot be refitted here.
    """
    deployment = Deployment.open(folder)
    if GRAPHS not in deployment.manifest.files:
        raise BackendError(
            f"{folder} was compiled for {deployment.manifest.backend}", "compile the model with --backend tensorrt"
        )
    engines = engines_of(folder)
    if engines is not None:
        check_engines(engines, deployment, open_library().this_machine())
        if not engines.refittable:
            raise BackendError(
                f"the engines of {folder} hold their weights for good", f"toprovar build {folder} --refittable"
            )
    factors = read_lora(lora)
    with DeploymentWriter(output, force) as writer:
        with stages.stage("copy"):
            for name in deployment.manifest.files:
                (writer.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / name, writer.folder / name)
        with stages.stage("merge"):
            changed = merge_lora(writer.folder / "graphs", factors, strength)
        if engines is not None:
            (writer.folder / ENGINES).parent.mkdir()
            files = []
            for index, one in enumerate(engines.files):
                stages.progress("refit", index, len(engines.files))
                files.append(_refitted(one, folder, writer.folder, changed, engines.version_compatible))
            stages.progress("refit", len(files), len(files))
            own = dataclasses.replace(engines, files=tuple(files), plan_sha256=file_sha256(writer.folder / PLAN))
            own.save(writer.folder / ENGINES)
        source = f"{deployment.manifest.model.source} with {lora.name} at {strength:g}"
        model = dataclasses.replace(deployment.manifest.model, source=source)
        writer.manifest = dataclasses.replace(deployment.manifest, model=model, files={})
    return changed


def _refitted(one: EngineFile, folder: Path, target: Path, changed: Mapping[str, int], host_code: bool) -> EngineFile:
    """An engine with its graph's new weights; those of other graphs are copied."""
    graph = target / "graphs" / f"{one.graph}.onnx"
    if one.graph in changed:
        from toprovar.compiler.tensorrt.refit import refit_engine

        refit_engine(folder / one.file, graph, target / one.file, host_code)
    else:
        shutil.copy(folder / one.file, target / one.file)
    return dataclasses.replace(one, sha256=file_sha256(target / one.file), graph_sha256=file_sha256(graph))
