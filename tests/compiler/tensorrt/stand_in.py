"""A stand-in for TensorRT's Python package: the documented names that the compiler uses, and no more.

It parses nothing and builds nothing. A test says what the parser is to answer, and sees what it was asked for.
"""

from __future__ import annotations

import enum
import importlib
import sys
import types
from dataclasses import dataclass, field
from typing import Any

import pytest

from toprovar.compiler import tensorrt

__all__ = ["DataType", "Network", "ParserError", "Script", "Severity", "Tensor", "install"]


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)


@dataclass
class Tensor:
    """As `tensorrt.ITensor`."""

    name: str
    dtype: DataType
    shape: tuple[int, ...]
    is_shape_tensor: bool = False


@dataclass
class Layer:
    """As `tensorrt.ILayer`."""

    type: Any
    output: Any = None

    def get_output(self, index: int) -> Any:
        return self.output


@dataclass
class ParserError:
    """As `tensorrt.ParserError`."""

    operator: str
    text: str
    node: str

    def node_operator(self) -> str:
        return self.operator

    def desc(self) -> str:
        return self.text

    def node_name(self) -> str:
        return self.node


@dataclass
class Network:
    """As `tensorrt.INetworkDefinition`.

    Attributes:
        kinds: of layers, such as `CONSTANT`; `QUANTIZE to FP8` says what a layer gives.
    """

    flags: int = 0
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    @property
    def num_layers(self) -> int:
        return len(self.kinds)

    def get_input(self, index: int) -> Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> Tensor:
        return self.outputs[index]

    def get_layer(self, index: int) -> Layer:
        kind, _, gives = self.kinds[index].partition(" to ")
        output = Tensor("", DataType[gives or "FLOAT"], ())
        return Layer(types.SimpleNamespace(name=kind), output)


class Profile:
    """As `tensorrt.IOptimizationProfile`."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, ...]] = {}
        self.values: dict[str, tuple[Any, ...]] = {}

    def set_shape(self, name: str, *span: Any) -> None:
        self.shapes[name] = tuple(map(tuple, span))

    def set_shape_input(self, name: str, *span: Any) -> None:
        self.values[name] = tuple(map(tuple, span))

    def __bool__(self) -> bool:
        return True


@dataclass
class Config:
    """As `tensorrt.IBuilderConfig`, which refuses more than so many profiles."""

    takes: int
    profiles: list[Profile] = field(default_factory=list)

    def add_optimization_profile(self, profile: Profile) -> int:
        if len(self.profiles) >= self.takes:
            return -1
        self.profiles.append(profile)
        return len(self.profiles) - 1


@dataclass
class Script:
    """What a test lets the stand-in answer."""

    parses: bool = True
    errors: list[ParserError] = field(default_factory=list)
    said: list[tuple[Severity, str]] = field(default_factory=list)
    network: Network = field(default_factory=Network)
    profiles: int = 100
    config: Config | None = None


def install(monkeypatch: pytest.MonkeyPatch, script: Script, lacks: str = "") -> types.ModuleType:
    """Puts the stand-in where `import tensorrt` finds it, for one test.

    Args:
        monkeypatch: takes it away again.
        script: its answers.
        lacks: a flag of networks that this version does not have.
    """
    made = types.ModuleType("tensorrt")

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> Network:
            script.network.flags = flags
            return script.network

        def create_builder_config(self) -> Config:
            script.config = Config(script.profiles)
            return script.config

        def create_optimization_profile(self) -> Profile:
            return Profile()

    class OnnxParser:
        def __init__(self, network: Network, logger: Any) -> None:
            self._logger = logger

        def parse_from_file(self, path: str) -> bool:
            for severity, message in script.said:
                self._logger.log(severity, message)
            return script.parses

        @property
        def num_errors(self) -> int:
            return len(script.errors)

        def get_error(self, index: int) -> ParserError:
            return script.errors[index]

    class ILogger:
        pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]
    flags = {"STRONGLY_TYPED": 1, "PREFER_AOT_PYTHON_PLUGINS": 3, "PREFER_JIT_PYTHON_PLUGINS": 2}
    flags.pop(lacks, None)
    for name, value in {
        "ILogger": ILogger,
        "IProgressMonitor": type("IProgressMonitor", (), {}),
        "Builder": Builder,
        "OnnxParser": OnnxParser,
        "DataType": DataType,
        "INetworkDefinition": Network,
        "Runtime": object,
        "HardwareCompatibilityLevel": enum.Enum(
            "HardwareCompatibilityLevel", ["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"]
        ),
        "MemoryPoolType": enum.Enum("MemoryPoolType", ["WORKSPACE"]),
        "NetworkDefinitionCreationFlag": enum.IntEnum("NetworkDefinitionCreationFlag", flags),
        "init_libnvinfer_plugins": lambda logger, namespace: True,
        "__version__": "10.15.1",
    }.items():
        setattr(made, name, value)
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    plugin = "toprovar.plugins.fae.tensorrt_plugin"
    monkeypatch.setitem(sys.modules, plugin, types.ModuleType(plugin))
    names = ("network", "parse", "monitor", "build")
    for name in names:
        # Set before they go, so that those of this test go with it.
        monkeypatch.setitem(sys.modules, f"{tensorrt.__name__}.{name}", made)
        del sys.modules[f"{tensorrt.__name__}.{name}"]
        monkeypatch.setattr(tensorrt, name, None, raising=False)
        delattr(tensorrt, name)
    for name in names:
        importlib.import_module(f"{tensorrt.__name__}.{name}")
    return made
