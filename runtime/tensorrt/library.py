"""The only file of the runtime that imports TensorRT: engines from files, and what the machine is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tensorrt as trt
import torch

from toprovar.console import diagnostics
from toprovar.errors import BackendError
from toprovar.runtime.tensorrt.preflight import REBUILD, Machine

__all__ = ["check_available", "load_engine", "this_machine", "user_managed"]


class _Messages(trt.ILogger):
    """Shows errors; warnings are the compiler's business."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        """Called by TensorRT; must not raise."""
        if int(severity) <= int(trt.ILogger.Severity.ERROR):
            diagnostics().print(f"TensorRT: {message}", markup=False, highlight=False)


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
    return Machine(torch.cuda.get_device_name(), f"{major}.{minor}", str(trt.__version__))


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


def user_managed() -> Any:
    """Contexts that get their memory from outside."""
    return trt.ExecutionContextAllocationStrategy.USER_MANAGED
