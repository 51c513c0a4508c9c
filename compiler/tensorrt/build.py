"""Builds engines through Polygraphy: parse, configure, build, save, and read back what came of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polygraphy.backend.trt import CreateConfig, EngineFromNetwork, SaveEngine
from polygraphy.exception import PolygraphyException
from polygraphy.logger import G_LOGGER

from toprovar import interruption
from toprovar.compiler.tensorrt import network as library
from toprovar.compiler.tensorrt.blame import find_blame, save_minimal
from toprovar.compiler.tensorrt.contract import GraphFile
from toprovar.compiler.tensorrt.monitor import Monitor, Tell
from toprovar.compiler.tensorrt.network import Messages, NetworkFromGraph, ParsingFailed, type_name
from toprovar.compiler.tensorrt.options import BuildOptions
from toprovar.compiler.tensorrt.parse import to_polygraphy
from toprovar.deployment import file_sha256
from toprovar.engines import EngineFile, EngineProfile
from toprovar.errors import BackendError

__all__ = ["BuiltEngine", "build_engine"]


@dataclass(frozen=True)
class BuiltEngine:
    """An engine and what it says of itself.

    Attributes:
        record: for the deployment.
        version_compatible: whether it brings a runtime of its own.
        hardware_compatibility: the engine's level, in lower case.
        refittable: whether its weights can be exchanged.
        streamable_bytes: weights that may stay in main memory.
        warnings: what TensorRT warned of.
    """

    record: EngineFile
    version_compatible: bool
    hardware_compatibility: str
    refittable: bool
    streamable_bytes: int
    warnings: tuple[str, ...]


def build_engine(
    graph: GraphFile,
    profiles: Sequence[EngineProfile],
    target: Path,
    options: BuildOptions,
    timing_cache: Path,
    stream_weights: bool = False,
    repro: Path | None = None,
    tell: Tell = lambda phase, done, total: None,
) -> BuiltEngine:
    """Builds one engine.

    Args:
        graph: what to build.
        profiles: for which shapes.
        target: engine file to write.
        options: how.
        timing_cache: file with the times of kernels; read if it is there, and added to.
        stream_weights: let weights stay in main memory.
        repro: where to write the part of the graph that an error is about.
        tell: told how far the build is, from any thread; must not raise.

    Raises:
        KeyboardInterrupt: Ctrl-C came; TensorRT stopped at its next step.
        BackendError: TensorRT cannot build it, or built something else than was asked for.
    """
    name, messages = graph.path.stem, Messages()
    started = time.perf_counter()

    def fail(reason: str, node: str = "") -> BackendError:
        return _build_error(graph.path, profiles, reason, node, repro)

    try:
        # Polygraphy prints what it raises; here it is told once, with its cause.
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
            builder, parsed, parser = NetworkFromGraph(graph.path, options.plugin, messages)()
            _check_products(name, library.quantized_products(parsed), graph)
            names = [parsed.get_input(index).name for index in range(parsed.num_inputs)]
            config = CreateConfig(
                profiles=[to_polygraphy(profile, names) for profile in profiles],
                load_timing_cache=str(timing_cache) if timing_cache.exists() else None,
                refittable=options.refittable,
                version_compatible=options.version_compatible,
                hardware_compatibility_level=library.hardware_level(options.hardware_compatibility),
                builder_optimization_level=options.optimization_level,
                memory_pool_limits=library.workspace_limit(options.workspace),
                progress_monitor=Monitor(tell),
                weight_streaming=stream_weights or None,
            )
            build = EngineFromNetwork((builder, parsed, parser), config=config, save_timing_cache=str(timing_cache))
            target.parent.mkdir(parents=True, exist_ok=True)
            with interruption.deferred(f"the next step of building {name}"):
                engine = SaveEngine(build, str(target))()
    except ParsingFailed as error:
        raise fail(error.reason, error.node) from error
    except PolygraphyException as error:
        # A build that was stopped looks like one that failed.
        interruption.stop_if_interrupted()
        raise fail("; ".join(messages.errors) or str(error)) from error
    types = {name: type_name(engine.get_tensor_dtype(name)) for name in _tensor_names(engine)}
    _check_types(name, types, graph)
    record = EngineFile(
        name,
        f"engines/{target.name}",
        file_sha256(target),
        file_sha256(graph.path),
        tuple(profiles),
        {name: types[name] for name in graph.contract.inputs if name in types},
        {name: types[name] for name in graph.contract.outputs},
        engine.num_layers,
        _device_bytes(engine),
        time.perf_counter() - started,
    )
    built = BuiltEngine(
        record,
        library.holds_host_code(target),
        engine.hardware_compatibility_level.name.lower(),
        engine.refittable,
        engine.streamable_weights_size,
        tuple(messages.warnings),
    )
    _check_options(name, built, options)
    return built


def _tensor_names(engine: Any) -> list[str]:
    return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]


def _device_bytes(engine: Any) -> int:
    return max(engine.get_device_memory_size_for_profile_v2(i) for i in range(engine.num_optimization_profiles))


def _check_products(name: str, found: int, graph: GraphFile) -> None:
    if found != graph.quantized:
        raise BackendError(
            f"TensorRT reads {found} products in eight bits from {name}; expected {graph.quantized}",
            "report this with its version",
        )


def _check_types(name: str, found: dict[str, str], graph: GraphFile) -> None:
    wrong = [
        f"{one} is {kind}, not {graph.types.get(one)}" for one, kind in found.items() if kind != graph.types.get(one)
    ]
    wrong += [f"{one} is missing" for one in graph.contract.outputs if one not in found]
    if wrong:
        raise BackendError(f"TensorRT changed what {name} gives: {', '.join(wrong)}", "report this with its version")


def _check_options(name: str, built: BuiltEngine, options: BuildOptions) -> None:
    asked: list[tuple[str, object, object]] = [
        ("version compatible", built.version_compatible, options.version_compatible),
        ("hardware compatibility", built.hardware_compatibility, options.hardware_compatibility),
        ("refittable", built.refittable, options.refittable),
    ]
    wrong = [f"{what} {found}, asked for {wanted}" for what, found, wanted in asked if found != wanted]
    if wrong:
        raise BackendError(f"the engine of {name} is not as asked: {'; '.join(wrong)}", "build without that option")


def _build_error(
    path: Path, profiles: Sequence[EngineProfile], reason: str, node: str, repro: Path | None
) -> BackendError:
    blame = find_blame(f"{node} {reason}", path, profiles)
    hint = "run toprovar doctor, and report this with TensorRT's version"
    if "builder_resource" in reason:
        hint = "this TensorRT lacks a part for this GPU: pip install tensorrt brings all of them"
    elif repro is not None and blame.node and save_minimal(path, blame.node, repro):
        hint = f"{repro} holds the part at fault, to be reported with TensorRT's version"
    first = reason.strip().splitlines()[0] if reason.strip() else "no reason given"
    return BackendError(f"TensorRT cannot build {path.stem}{blame.words()} ({first})", hint)
