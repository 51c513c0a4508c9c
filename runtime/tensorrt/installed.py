"""The way to TensorRT that says what is in the way."""

from __future__ import annotations

from types import ModuleType

from toprovar.errors import BackendError
from toprovar.extras import require

__all__ = ["open_library"]

_REMEDY = 'pip install --upgrade "toprovar[tensorrt]"'


def open_library() -> ModuleType:
    """`toprovar.runtime.tensorrt.library`, the one file of the runtime that imports TensorRT.

    Raises:
        MissingExtra: TensorRT is not installed.
        BackendError: its libraries cannot be loaded, or it is too old.
    """
    try:
        require("tensorrt", "tensorrt")
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise BackendError(f"TensorRT cannot be loaded ({reason})", _REMEDY) from error
    from toprovar.runtime.tensorrt import library

    library.check_version()
    return library
