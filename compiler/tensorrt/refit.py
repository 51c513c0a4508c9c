"""Puts the weights of a graph into an engine that was built from it: seconds, where a build takes minutes."""

from __future__ import annotations

from pathlib import Path

import tensorrt as trt

from toprovar.compiler.tensorrt.network import Messages
from toprovar.errors import BackendError

__all__ = ["refit_engine"]

_REBUILD = "build the engines with `toprovar build DIR --refittable`"


def refit_engine(engine_file: Path, graph: Path, target: Path, host_code: bool) -> None:
    """Writes an engine with a graph's weights.

    The parser finds each weight by the name that it had in the graph, so that the graph must be the one of the build in
    all but its numbers.

    Args:
        engine_file: as it was built.
        graph: ONNX file, its weights beside it.
        target: engine file to write.
        host_code: the engine brings a runtime of its own.

    Raises:
        BackendError: the engine was not built to be refitted, or the graph is another one.
    """
    messages = Messages()
    trt.init_libnvinfer_plugins(messages, "")
    runtime = trt.Runtime(messages)
    runtime.engine_host_code_allowed = host_code
    engine = runtime.deserialize_cuda_engine(engine_file.read_bytes())
    if engine is None:
        raise BackendError(f"TensorRT refuses {engine_file.name} ({'; '.join(messages.errors)})", _REBUILD)
    if not engine.refittable:
        raise BackendError(f"{engine_file.name} holds its weights for good", _REBUILD)
    refitter = trt.Refitter(engine, messages)
    parser = trt.OnnxParserRefitter(refitter, messages)
    if not parser.refit_from_file(str(graph)):
        reasons = [parser.get_error(index).desc() for index in range(parser.num_errors)] or messages.errors
        raise BackendError(f"{graph.name} does not fit {engine_file.name} ({'; '.join(reasons)})", _REBUILD)
    if not refitter.refit_cuda_engine():
        missing = ", ".join(refitter.get_missing_weights()[:3]) or "; ".join(messages.errors)
        raise BackendError(f"{engine_file.name} cannot be refitted ({missing})", _REBUILD)
    target.write_bytes(engine.serialize())
