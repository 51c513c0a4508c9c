"""A stand-in for TensorRT's engines, in main memory: what `ICudaEngine` and `IExecutionContext` are documented to do.

Where an engine would run its layers, the stand-in runs the module that the engine's graph is exported from. It reads
its inputs from the addresses that it was given and writes its outputs there, and it is as strict as the documentation:
a shape outside of the context's profile, a missing address or an unset profile is refused.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from toprovar.engines import EngineFile, EngineProfile
from toprovar.runtime.tensorrt.engine import DTYPES
from toprovar.signature import Signature

__all__ = ["StandInContext", "StandInEngine", "StandInRecorder", "make_record"]

_INTEGERS = ("scale", "conditional_rows", "unconditional_rows", "image_of_row", "order", "kept", "token_ids")


def make_record(graph: str, contract: Signature, profiles: tuple[EngineProfile, ...]) -> EngineFile:
    """What a build would have written down."""
    inputs = {name: "int64" if name in _INTEGERS else "float32" for name in contract.inputs}
    outputs = {name: "int32" if name == "bits" else "float32" for name in contract.outputs}
    return EngineFile(graph, f"engines/{graph}.engine", "0" * 64, "0" * 64, profiles, inputs, outputs, 1, 64, 0.0)


@dataclass
class StandInEngine:
    """As `tensorrt.ICudaEngine`.

    Attributes:
        module: computes what the engine would.
        own: the module's contract.
        record: of the engine.
        contexts: that were made.
    """

    module: nn.Module
    own: Signature
    record: EngineFile
    contexts: list[StandInContext] = field(default_factory=list)

    def create_execution_context(self, strategy: object) -> StandInContext:
        assert strategy == "user managed"
        self.contexts.append(StandInContext(self))
        return self.contexts[-1]


class StandInContext:
    """As `tensorrt.IExecutionContext`.

    Attributes:
        memory: address and bytes of its memory.
        profile: index of its profile.
        bindings: how many addresses were set.
        runs: how often it ran.
    """

    def __init__(self, engine: StandInEngine) -> None:
        self.engine = engine
        self.memory = (0, 0)
        self.profile = -1
        self.bindings = self.runs = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory
        assert size >= self.engine.record.device_bytes
        self.memory = memory, size

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return 0 <= index < len(self.engine.record.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile >= 0, "no profile"
        self._shapes[name] = tuple(shape)
        return self.engine.record.profiles[self.profile].shapes[name].holds(tuple(shape))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.bindings += 1
        self._addresses[name] = address
        return name in self.engine.record.inputs or name in self.engine.record.outputs

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.record.inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._compute()[name].shape)

    def execute_async_v3(self, stream: int) -> bool:
        record = self.engine.record
        if not all(self._addresses.get(name) for name in (*record.inputs, *record.outputs)):
            return False
        profile = record.profiles[self.profile]
        for name, span in profile.values.items():
            if name in record.inputs and not span.holds(tuple(self._read(name).tolist())):
                return False
        for name, value in self._compute().items():
            dtype = DTYPES[record.outputs[name]]
            _view(self._addresses[name], tuple(value.shape), dtype).copy_(value)
        self.runs += 1
        return True

    def _read(self, name: str) -> Tensor:
        return _view(self._addresses[name], self._shapes[name], DTYPES[self.engine.record.inputs[name]])

    def _compute(self) -> dict[str, Tensor]:
        inputs = {name: self._read(name).clone() for name in self.engine.record.inputs}
        tensors = [
            inputs[name].permute(1, 2, 0, 3) if name.startswith("past_") else inputs[name]
            for name in self.engine.own.inputs
        ]
        with torch.inference_mode():
            results = self.engine.module(*tensors)
        results = results if isinstance(results, tuple) else (results,)
        named = {}
        for name, value in zip(self.engine.own.outputs, results, strict=True):
            if name.startswith("present_"):
                past = inputs[name.replace("present_", "past_")].shape[0]
                named[name.replace("present_", "new_")] = value[:, :, past:].permute(2, 0, 1, 3)
            else:
                named[name] = value
        return named


class StandInRecorder:
    """Captures work as `toprovar.runtime.cuda.graphs.Recorder` does; a graph is the work itself."""

    def __init__(self) -> None:
        self.graphs = 0

    def capture(self, work: object) -> StandInGraph:
        self.graphs += 1
        return StandInGraph(work)


@dataclass
class StandInGraph:
    """As `torch.cuda.CUDAGraph`."""

    work: object

    def replay(self) -> None:
        assert callable(self.work)
        self.work()


def _view(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    assert address, "no address"
    count = math.prod(shape)
    if not count:
        return torch.zeros(shape, dtype=dtype)
    memory = (ctypes.c_byte * (count * dtype.itemsize)).from_address(address)
    return torch.from_numpy(np.frombuffer(memory, np.uint8)).view(dtype).view(shape)
