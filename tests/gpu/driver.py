"""Launches PTX through the CUDA driver as a launcher does that knows nothing of Triton."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch

__all__ = ["launch_ptx"]


def launch_ptx(
    ptx: str,
    name: str,
    grid: tuple[int, int],
    threads: int,
    shared_bytes: int,
    arguments: Sequence[torch.Tensor | int],
) -> None:
    """Loads a kernel, runs it and waits for it.

    Args:
        ptx: text of the kernel.
        name: of its entry.
        grid: programs, x and y.
        threads: a program.
        shared_bytes: dynamic shared memory a program.
        arguments: in the kernel's order, in an array of exactly that length; integers have 32 bits.
    """
    driver = ctypes.CDLL("libcuda.so.1")

    def call(function: str, *values: object) -> None:
        assert getattr(driver, function)(*values) == 0, function

    torch.cuda.synchronize()
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(ptx.encode()))
    call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(name.encode()))
    values = [
        ctypes.c_int32(value) if isinstance(value, int) else ctypes.c_void_p(value.data_ptr()) for value in arguments
    ]
    parameters = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    call("cuLaunchKernel", function, *grid, 1, threads, 1, 1, shared_bytes, stream, parameters, None)
    torch.cuda.synchronize()
    call("cuModuleUnload", module)
