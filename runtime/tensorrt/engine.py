"""One engine: a context for each of its profiles, addresses bound when they change, CUDA graphs of what recurs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toprovar.engines import EngineFile
from toprovar.errors import BackendError
from toprovar.runtime.cuda.graphs import Recorder, Replay
from toprovar.runtime.tensorrt.preflight import REBUILD
from toprovar.runtime.tensorrt.slot import address

__all__ = ["DTYPES", "Engine", "Place"]

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
    "int64": torch.int64,
    "bool": torch.bool,
}
"""By the names of `toprovar.engines.EngineFile`."""

Place = Callable[[str, tuple[int, ...], torch.dtype], Tensor]
"""Where an output goes: of its name, shape and type; the same place for the same inputs."""

_MOST_PROGRAMS = 512
"""Combinations of addresses and shapes that are kept; beyond, the oldest goes."""

_Key = tuple[object, ...]


@dataclass(frozen=True)
class _Program:
    outputs: dict[str, Tensor]
    replay: Replay
    held: tuple[object, ...]


class Engine:
    """Runs one engine.

    Args:
        engine: `tensorrt.ICudaEngine`.
        record: what was written down when it was built.
        strategy: `tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED`.
        scratch: memory that all contexts of all engines share, since only one runs at a time.
        recorder: captures CUDA graphs; None runs without.
    """

    def __init__(
        self, engine: Any, record: EngineFile, strategy: Any, scratch: Tensor, recorder: Recorder | None
    ) -> None:
        self.record = record
        self._engine, self._strategy, self._scratch, self._recorder = engine, strategy, scratch, recorder
        self._contexts: dict[int, _Context] = {}
        self._programs: dict[_Key, _Program] = {}

    def run(
        self,
        scale: int | None,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, tuple[int, ...]],
        place: Place,
        after: Callable[[Mapping[str, Tensor]], None] = lambda outputs: None,
    ) -> dict[str, Tensor]:
        """Runs the engine on the current stream.

        Args:
            scale: index of the scale, which a profile must be for; None outside the steps.
            tensors: inputs on the device, contiguous, in the engine's types; what the engine has no input for is
                ignored.
            values: of the inputs that hold sizes.
            place: where outputs go.
            after: belongs to the work, as copies of outputs do.

        Raises:
            BackendError: no profile is for these shapes, or TensorRT refuses.
        """
        known = {name: tensors[name] for name in self.record.inputs if name not in values}
        values = {name: value for name, value in values.items() if name in self.record.inputs}
        profile = self._choose(scale, known, values)
        key = (profile, *((address(tensor), *tensor.shape) for tensor in known.values()), *values.values())
        if key not in self._programs:
            if len(self._programs) >= _MOST_PROGRAMS:
                self._programs.pop(next(iter(self._programs)))
            self._programs[key] = self._program(profile, known, values, place, after)
        program = self._programs[key]
        program.replay()
        return program.outputs

    def forget(self) -> None:
        """Lets go of all tensors that were given or made; addresses are bound anew."""
        self._programs.clear()

    def _choose(self, scale: int | None, tensors: Mapping[str, Tensor], values: Mapping[str, tuple[int, ...]]) -> int:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for index, profile in enumerate(self.record.profiles):
            if profile.scale == scale and profile.holds(shapes, values):
                return index
        where = "" if scale is None else f" for scale {scale}"
        few = {name: shape for name, shape in shapes.items() if name in ("x", "features", "summed", "token_ids")}
        raise BackendError(
            f"no profile of the engine {self.record.graph}{where} takes {few | dict(values)}",
            f"run fewer images at once or a shorter prompt, or {REBUILD}",
        )

    def _program(
        self,
        profile: int,
        tensors: Mapping[str, Tensor],
        values: Mapping[str, tuple[int, ...]],
        place: Place,
        after: Callable[[Mapping[str, Tensor]], None],
    ) -> _Program:
        if profile not in self._contexts:
            self._contexts[profile] = _Context(self._engine, profile, self._strategy, self._scratch)
        context, hosts = self._contexts[profile], {name: np.array(value) for name, value in values.items()}
        hosts = {name: array.astype(self.record.inputs[name]) for name, array in hosts.items()}
        context.give(tensors, hosts)
        outputs = {name: place(name, context.shape(name), DTYPES[kind]) for name, kind in self.record.outputs.items()}

        def work() -> None:
            context.give(tensors, hosts)
            context.take(outputs)
            context.execute()
            after(outputs)

        return _Program(outputs, Replay(work, self._recorder), (tensors, hosts))


class _Context:
    """One execution context, which remembers what is bound."""

    def __init__(self, engine: Any, profile: int, strategy: Any, scratch: Tensor) -> None:
        self._context = engine.create_execution_context(strategy)
        if self._context is None:
            raise BackendError("TensorRT gives no execution context", "free GPU memory")
        self._context.set_device_memory(scratch.data_ptr(), scratch.numel())
        self._check(self._context.set_optimization_profile_async(profile, _stream(scratch)), f"profile {profile}")
        self._device, self._bound = scratch, dict[str, tuple[int, tuple[int, ...]]]()

    def give(self, tensors: Mapping[str, Tensor], hosts: Mapping[str, np.ndarray]) -> None:
        """Binds inputs: shapes and addresses, those of sizes in main memory."""
        for name, tensor in tensors.items():
            self._bind(name, address(tensor), tuple(tensor.shape), True)
        for name, array in hosts.items():
            self._bind(name, array.ctypes.data, array.shape, True)

    def take(self, outputs: Mapping[str, Tensor]) -> None:
        """Binds outputs."""
        for name, tensor in outputs.items():
            self._bind(name, address(tensor), tuple(tensor.shape), False)

    def shape(self, name: str) -> tuple[int, ...]:
        """What an output's shape will be."""
        missing = self._context.infer_shapes()
        if missing:
            raise BackendError(f"TensorRT wants to know of {', '.join(missing)}", REBUILD)
        return tuple(self._context.get_tensor_shape(name))

    def execute(self) -> None:
        """Enqueues the work on the current stream."""
        self._check(self._context.execute_async_v3(_stream(self._device)), "the work")

    def _bind(self, name: str, address: int, shape: tuple[int, ...], given: bool) -> None:
        before = self._bound.get(name)
        if before == (address, shape):
            return
        if given and (before is None or before[1] != shape):
            self._check(self._context.set_input_shape(name, shape), f"{name} of shape {shape}")
        self._check(self._context.set_tensor_address(name, address), f"the address of {name}")
        self._bound[name] = address, shape

    @staticmethod
    def _check(done: bool, what: str) -> None:
        if not done:
            raise BackendError(f"TensorRT refuses {what}", "report this with its version")


def _stream(tensor: Tensor) -> int:
    return torch.cuda.current_stream(tensor.device).cuda_stream if tensor.is_cuda else 0
