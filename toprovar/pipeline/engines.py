"""The engines of a deployment: from its graphs to its folder `engines`, which appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch

from toprovar.calibration.journal import cache_folder
from toprovar.compiler.tensorrt.contract import GraphFile, read_graph_file
from toprovar.compiler.tensorrt.memory import MemoryEstimate, estimate_memory, fit_memory
from toprovar.compiler.tensorrt.options import BuildOptions
from toprovar.compiler.tensorrt.profiles import Limits, graph_profiles
from toprovar.engines import ENGINES, EngineProfile, Engines
from toprovar.errors import ArtefactError, BackendError
from toprovar.jsonfile import cannot_write
from toprovar.manifest import ModelRecord, TextRecord
from toprovar.plan import SparsityPlan
from toprovar.progress import Stages
from toprovar.runtime.tensorrt.installed import open_library
from toprovar.runtime.tensorrt.preflight import Machine

if TYPE_CHECKING:
    from toprovar.compiler.tensorrt.build import BuiltEngine

__all__ = ["TIMING_CACHE", "EngineRequest", "Source", "build_engines", "require_float8"]

TIMING_CACHE = "timing.cache"
"""Times of kernels, beside the engines: another build for the same GPU and version need not measure them."""

_GRAPHS = ("text", "prompt", "step", "decode")
_GIB = 1 << 30
_Products = Literal["bfloat16", "float32", "float8"]
_FLOAT8 = 8, 9
"""The first compute capability with products of eight-bit floats."""


@dataclass(frozen=True)
class EngineRequest:
    """What engines are wanted.

    Attributes:
        images: images at most that run together.
        options: how they are built.
        stream_weights: let weights stay in main memory even where there is room on the device.
    """

    images: int = 4
    options: BuildOptions = field(default_factory=BuildOptions)
    stream_weights: bool = False


@dataclass(frozen=True)
class Source:
    """What engines are built of.

    Attributes:
        folder: of the deployment; ``graphs`` is read there, ``engines`` written.
        model: facts of the model.
        plan: whose counts the profiles hold.
        plan_sha256: hash of its file.
        text: how prompts are encoded.
    """

    folder: Path
    model: ModelRecord
    plan: SparsityPlan
    plan_sha256: str
    text: TextRecord


def build_engines(source: Source, request: EngineRequest, stages: Stages) -> Engines:
    """Builds every engine, for this GPU and the TensorRT that is installed.

    Raises:
        MissingExtra: TensorRT is not installed.
        BackendError: it is too old, there is no GPU, the graphs do not fit it, or one cannot be built.
        KeyboardInterrupt: Ctrl-C came; engines that were there before are as they were.
    """
    library = open_library()
    machine = library.this_machine()
    graphs = _read_graphs(source.folder)
    if graphs["step"].products == "float8":
        require_float8(machine)
    contracts = {name: graph.contract for name, graph in graphs.items()}
    limits = Limits(request.images, source.text.max_tokens, source.text.channels)
    profiles = graph_profiles(contracts, source.model, source.plan, limits)
    streamed = _fit(graphs, profiles, request.stream_weights, stages)
    with _whole(source.folder) as folder:
        timing = _timing_cache(source.folder, machine.tensorrt, machine.gpu)
        built = []
        for index, (name, graph) in enumerate(graphs.items()):
            stages.progress("engines", index, len(graphs))
            with stages.waiting(name) as say:
                built.append(_build(graph, profiles[name], folder, request.options, timing, streamed, say))
        stages.progress("engines", len(graphs), len(graphs))
        if timing.is_file():
            shutil.copy(timing, folder / TIMING_CACHE)
        first = built[0]
        engines = Engines(
            precision=cast(_Products, graphs["step"].products),
            plugin=request.options.plugin,
            images=request.images,
            tensorrt=machine.tensorrt,
            cuda=machine.cuda,
            driver=machine.driver,
            gpu=machine.gpu,
            compute_capability=machine.compute_capability,
            version_compatible=first.version_compatible,
            hardware_compatibility=first.hardware_compatibility,
            refittable=first.refittable,
            weight_streaming=streamed,
            plan_sha256=source.plan_sha256,
            files=tuple(one.record for one in built),
        )
        engines.save(folder / Path(ENGINES).name)
    for warning in dict.fromkeys(line for one in built for line in one.warnings):
        stages.remark(f"TensorRT: {warning}")
    return engines


def require_float8(machine: Machine) -> None:
    """Refuses a GPU without products in fp8.

    Raises:
        BackendError: it has none.
    """
    major, _, minor = machine.compute_capability.partition(".")
    if (int(major), int(minor)) < _FLOAT8:
        raise BackendError(
            f"{machine.gpu} ({machine.compute_capability}) has no products in fp8; expected compute capability 8.9 or "
            "later",
            "compile the model with --precision bf16",
        )


def _read_graphs(folder: Path) -> dict[str, GraphFile]:
    paths = {name: folder / "graphs" / f"{name}.onnx" for name in _GRAPHS}
    found = {name: read_graph_file(path) for name, path in paths.items() if path.is_file()}
    missing = [name for name in _GRAPHS[1:] if name not in found]
    if missing:
        raise BackendError(
            f"{folder} holds no graphs for TensorRT ({', '.join(missing)})", "compile the model with --backend tensorrt"
        )
    return found


def _fit(
    graphs: Mapping[str, GraphFile],
    profiles: Mapping[str, tuple[EngineProfile, ...]],
    asked: bool,
    stages: Stages,
) -> bool:
    """Tells how much memory all engines will take together; whether weights have to be streamed."""
    each = {name: estimate_memory(graph, profiles[name]) for name, graph in graphs.items()}
    # Contexts share their memory, since one engine runs at a time; weights lie side by side.
    together = MemoryEstimate(
        sum(one.weights for one in each.values()),
        max(one.tensors for one in each.values()),
        max(one.activations for one in each.values()),
    )
    free, _ = torch.cuda.mem_get_info()
    stages.remark(
        f"GPU memory: about {together.resident / _GIB:.1f} GiB ({together.weights / _GIB:.1f} of them weights); "
        f"{free / _GIB:.1f} GiB are free"
    )
    short = fit_memory("the model", together, free)
    if short and not asked:
        stages.remark("weights are streamed from main memory, since they do not fit")
    return short or asked


def _build(
    graph: GraphFile,
    profiles: tuple[EngineProfile, ...],
    folder: Path,
    options: BuildOptions,
    timing: Path,
    streamed: bool,
    say: Callable[[str], None],
) -> BuiltEngine:
    from toprovar.compiler.tensorrt.build import build_engine

    name = graph.path.stem
    return build_engine(
        graph,
        profiles,
        folder / f"{name}.engine",
        options,
        timing,
        streamed,
        timing.with_name(f"{name}-at-fault.onnx"),
        lambda phase, done, total: say(f"{phase} {done}/{total}"),
    )


@contextlib.contextmanager
def _whole(deployment: Path) -> Iterator[Path]:
    """A folder that takes the place of the deployment's `engines` if all goes well."""
    target = deployment / Path(ENGINES).parent
    suffix = f"{os.getpid()}-{secrets.token_hex(3)}"
    new, old = (deployment / f".engines.{role}-{suffix}" for role in ("partial", "replaced"))
    try:
        new.mkdir()
        yield new
        try:
            if target.exists():
                os.rename(target, old)
            os.rename(new, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.rename(old, target)
            raise
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        for folder in (new, old):
            shutil.rmtree(folder, ignore_errors=True)


def _timing_cache(deployment: Path, version: str, gpu: str) -> Path:
    """A file that outlasts a build that failed; what the deployment brings is where it starts."""
    home = cache_folder()
    kept = Path(tempfile.gettempdir()) / "toprovar" if home is None else home.with_name("tensorrt")
    kept.mkdir(parents=True, exist_ok=True)
    path = kept / f"{re.sub(r'[^A-Za-z0-9.]+', '-', f'{version}-{gpu}')}.cache"
    brought = deployment / Path(ENGINES).with_name(TIMING_CACHE)
    if not path.exists() and brought.is_file() and _made_by(deployment) == (version, gpu):
        shutil.copy(brought, path)
    return path


def _made_by(deployment: Path) -> tuple[str, str] | None:
    """TensorRT's version and the GPU of a deployment's engines; None where there are none that can be read."""
    with contextlib.suppress(ArtefactError):
        engines = Engines.load(deployment / ENGINES)
        return engines.tensorrt, engines.gpu
    return None
