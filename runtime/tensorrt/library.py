"""The only file of the runtime that imports TensorRT: engines from files, and what the machine is."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import tensorrt as trt
import torch

from toprovar.console import remark
from toprovar.errors import BackendError
from toprovar.runtime.tensorrt.preflight import REBUILD, Machine

__all__ = ["LEAST", "check_available", "check_version", "load_engine", "stream_weights", "this_machine", "user_managed"]

LEAST = "10.12"
"""The first version that takes Python plugins ahead of time and just in time as asked."""


class _Messages(trt.ILogger):
    """Shows errors; warnings are the compiler's business."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        """Called by TensorRT; must not raise."""
        if int(severity) <= int(trt.ILogger.Severity.ERROR):
            remark(f"TensorRT: {message}")


_MESSAGES = _Messages()


def check_available() -> str:
    """One line about the TensorRT found here.

    Raises:
        BackendError: there is no NVIDIA GPU.
    """
    machine = this_machine()
    return f"TensorRT {machine.tensorrt} on {machine.gpu}"


def this_machine() -> Machine:
    """The GPU in use and TensorRT's version.

    Raises:
        BackendError: there is no NVIDIA GPU.
    """
    if not torch.cuda.is_available():
        raise BackendError("torch finds no NVIDIA GPU; expected one", "use --backend onnxruntime")
    major, minor = torch.cuda.get_device_capability()
    driver = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(driver))
    known = f"{driver.value // 1000}.{driver.value % 1000 // 10}"
    name, capability = torch.cuda.get_device_name(), f"{major}.{minor}"
    return Machine(name, capability, str(trt.__version__), str(torch.version.cuda), known)


def check_version() -> None:
    """Refuses a TensorRT that is too old.

    Raises:
        BackendError: it is.
    """
    numbers, least = (tuple(map(int, version.split(".")[:2])) for version in (trt.__version__, LEAST))
    if numbers < least:
        raise BackendError(
            f"TensorRT {trt.__version__} is too old; expected {LEAST} or later",
            'pip install --upgrade "toprovar[tensorrt]"',
        )


def load_engine(path: Path, host_code: bool) -> Any:
    """Deserialises an engine.

    Args:
        path: of its file.
        host_code: it is version compatible, and brings a runtime of its own.

    Raises:
        BackendError: TensorRT refuses the file.
    """
    trt.init_libnvinfer_plugins(_MESSAGES, "")
    runtime = trt.Runtime(_MESSAGES)
    runtime.engine_host_code_allowed = host_code
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise BackendError(f"TensorRT {trt.__version__} refuses {path.name}", REBUILD)
    return engine


def stream_weights(engine: Any, most: bool) -> None:
    """Says how much of an engine's weights may lie on the device, before a context is made.

    Args:
        engine: one that was built for it; others are left as they are.
        most: stream as much as can be; else what TensorRT proposes for the memory that is free.
    """
    if engine.streamable_weights_size:
        engine.weight_streaming_budget_v2 = 0 if most else engine.get_weight_streaming_automatic_budget()


def user_managed() -> Any:
    """Contexts that get their memory from outside."""
    return trt.ExecutionContextAllocationStrategy.USER_MANAGED
