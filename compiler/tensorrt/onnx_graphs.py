"""Runs the graphs of a TensorRT deployment in ONNX Runtime: the function body in place of the plugin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from toprovar.compiler.tensorrt.widen import widen

__all__ = ["OnnxGraphs"]


class OnnxGraphs:
    """Runs graphs on a CPU; those in bfloat16, of which it has no products, as their float32 twins.

    Operands that a graph rounds to eight bits are rounded in the twin, too.

    Args:
        folder: holds ``NAME.onnx``.
        precision: of products, ``float32``, ``bfloat16`` or ``float8``.
        scratch: where twins are written, of twice the weights' bytes.
    """

    def __init__(self, folder: Path, precision: str, scratch: Path) -> None:
        self._folder, self._precision, self._scratch = folder, precision, scratch
        self._sessions: dict[str, ort.InferenceSession] = {}

    def __call__(self, graph: str, scale: int | None, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a graph, whatever the scale; outputs by name."""
        del scale
        if graph not in self._sessions:
            self._sessions[graph] = self._open(graph)
        session = self._sessions[graph]
        taken = [one.name for one in session.get_inputs()]
        names = [one.name for one in session.get_outputs()]
        return dict(zip(names, session.run(names, {name: feed[name] for name in taken}), strict=True))

    def _open(self, graph: str) -> ort.InferenceSession:
        path = self._folder / f"{graph}.onnx"
        if self._precision != "float32":
            self._scratch.mkdir(parents=True, exist_ok=True)
            path = self._scratch / path.name
            ir.save(widen(ir.load(self._folder / path.name)), path, external_data=f"{graph}.bin")
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
