"""What a device may raise, as errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from toprovar.errors import BackendError

__all__ = ["DeviceFault", "naming_faults"]

_LIBRARIES = ("CUDA", "cuDNN", "CUBLAS", "NVML")


class DeviceFault(BackendError):
    """A GPU or one of its libraries failed.

    Args:
        message: what happened.
        hint: what to do about it.
        recoverable: the process can go on, since only memory was short.
    """

    def __init__(self, message: str, hint: str, recoverable: bool) -> None:
        super().__init__(message, hint)
        self.recoverable = recoverable

    def __reduce__(self) -> tuple[object, ...]:
        return DeviceFault, (self.message, self.hint, self.recoverable)


@contextmanager
def naming_faults() -> Iterator[None]:
    """Turns a device's errors within the block into `DeviceFault`; a mistake of ours passes through."""
    try:
        yield
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "")
        if not any(name in reason for name in _LIBRARIES):
            raise
        if "out of memory" in reason:
            raise DeviceFault(
                f"the GPU is out of memory ({reason})",
                "run fewer images at a time, free the GPU, or use --low-vram or --precision fp8; the session can be "
                "used again",
                recoverable=True,
            ) from error
        raise DeviceFault(
            f"the GPU failed ({reason})", "start a new process; what it was doing is lost", recoverable=False
        ) from error
