"""Parses a graph into a TensorRT network: strongly typed, with the plugin in the form that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorrt as trt
from polygraphy import util
from polygraphy.backend.trt import NetworkFromOnnxPath

from toprovar.engines import PluginForm
from toprovar.errors import BackendError

__all__ = [
    "Messages",
    "NetworkFromGraph",
    "ParsingFailed",
    "hardware_level",
    "holds_host_code",
    "layer_counts",
    "quantized_products",
    "type_name",
    "version",
    "workspace_limit",
]

_FLAGS = {"ahead_of_time": "PREFER_AOT_PYTHON_PLUGINS", "just_in_time": "PREFER_JIT_PYTHON_PLUGINS"}


class Messages(trt.ILogger):
    """Keeps what TensorRT says.

    Attributes:
        errors: errors, in order.
        warnings: warnings, each once, in order.
    """

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []
        self.warnings: list[str] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        """Called by TensorRT; must not raise."""
        if int(severity) <= int(trt.ILogger.Severity.ERROR):
            self.errors.append(message)
        elif severity == trt.ILogger.Severity.WARNING and message not in self.warnings:
            self.warnings.append(message)


class ParsingFailed(Exception):
    """The parser refused a graph.

    Attributes:
        reason: what it said.
        node: name of the node; empty where it named none.
    """

    def __init__(self, reason: str, node: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.node = node


class NetworkFromGraph(NetworkFromOnnxPath):
    """Polygraphy's loader, for strongly typed networks with Python plugins.

    Args:
        path: of the ONNX file; its weights may lie beside it.
        plugin: form of the FlashAttentionEntropy plugin.
        messages: gets what TensorRT says while it parses and builds.
    """

    def __init__(self, path: Path, plugin: PluginForm, messages: Messages) -> None:
        super().__init__(str(path), strongly_typed=True)
        self._plugin = plugin
        self._messages = messages

    @util.check_called_by("__call__")
    def call_impl(self) -> tuple[Any, Any, Any]:
        """Builder, network and parser.

        Raises:
            ParsingFailed: the parser refuses the graph.
            BackendError: this TensorRT cannot take the plugin in that form.
        """
        import toprovar.plugins.fae.tensorrt_plugin  # noqa: F401  registers the plugin

        trt.init_libnvinfer_plugins(self._messages, "")
        builder = trt.Builder(self._messages)
        network = builder.create_network(_creation_flags(self._plugin))
        parser = trt.OnnxParser(network, self._messages)
        if not parser.parse_from_file(self.path):
            raise _failure(parser, self._messages)
        return builder, network, parser


def _creation_flags(plugin: PluginForm) -> int:
    known = trt.NetworkDefinitionCreationFlag
    form = getattr(known, _FLAGS[plugin], None)
    if form is None:
        raise BackendError(
            f"TensorRT {trt.__version__} has no {_FLAGS[plugin]}; expected 10.12 at least",
            'pip install --upgrade "toprovar[tensorrt]"',
        )
    # TensorRT 11 knows no other networks than strongly typed ones.
    typed = getattr(known, "STRONGLY_TYPED", None)
    return sum(1 << int(flag) for flag in (form, typed) if flag is not None)


def _failure(parser: trt.OnnxParser, messages: Messages) -> ParsingFailed:
    if not parser.num_errors:
        return ParsingFailed("; ".join(messages.errors) or "the parser gave no reason", "")
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    # The parser checks every node before it adds any, so there may be several.
    reasons = dict.fromkeys(f"{error.node_operator()}: {error.desc()}" for error in errors)
    return ParsingFailed("; ".join(reasons), errors[0].node_name())


def layer_counts(network: trt.INetworkDefinition) -> dict[str, int]:
    """Number of layers by kind, such as `PLUGIN_V3`."""
    counts: dict[str, int] = {}
    for index in range(network.num_layers):
        kind = network.get_layer(index).type.name
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))


def quantized_products(network: trt.INetworkDefinition) -> int:
    """How many products take eight bits: layers that round to E4M3, after each of which one is multiplied."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return sum(layer.type.name == "QUANTIZE" and layer.get_output(0).dtype.name == "FP8" for layer in layers)


def type_name(dtype: trt.DataType) -> str:
    """Name of an element type as ONNX has it."""
    names = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "FP8": "float8e4m3fn"}
    return names.get(dtype.name, dtype.name.lower())


def hardware_level(name: str) -> trt.HardwareCompatibilityLevel:
    """A level of hardware compatibility by its name in lower case."""
    return getattr(trt.HardwareCompatibilityLevel, name.upper())


def workspace_limit(limit: int | None) -> dict[trt.MemoryPoolType, int] | None:
    """Memory that layers may use while they run, for Polygraphy's `CreateConfig`."""
    return None if limit is None else {trt.MemoryPoolType.WORKSPACE: limit}


def holds_host_code(path: Path) -> bool:
    """Whether an engine brings a runtime of its own, which is what makes it run in later versions of TensorRT.

    A runtime that allows no host code refuses such an engine.
    """
    runtime = trt.Runtime(Messages())
    runtime.engine_host_code_allowed = False
    if runtime.deserialize_cuda_engine(path.read_bytes()) is not None:
        return False
    runtime.engine_host_code_allowed = True
    return runtime.deserialize_cuda_engine(path.read_bytes()) is not None


def version() -> str:
    """TensorRT's version."""
    return str(trt.__version__)
