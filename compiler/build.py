"""Prepares exported graphs for an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from toprovar.errors import BackendError

__all__ = ["build_for_onnxruntime"]


def build_for_onnxruntime(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Loads every graph as the runtime will, so that one it cannot execute fails here and not at a user's.

    Returns:
        Versions for the manifest.

    Raises:
        BackendError: ONNX Runtime refuses a graph.
    """
    for name in names:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        try:
            ort.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors share no base class of their own
            reason = str(error).splitlines()[0]
            raise BackendError(f"ONNX Runtime refuses the graph {name!r} ({reason})", "report this as a bug") from error
    return {"onnxruntime": ort.__version__}
