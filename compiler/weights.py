"""Writes graphs whose weights lie in one file, each tensor once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx_ir as ir

from toprovar.compiler.graph import Graph

__all__ = ["WEIGHTS_FILE", "save_graphs"]

WEIGHTS_FILE = "weights.bin"
_SMALLEST = 1024
"""Bytes from which a tensor leaves the graph's own file."""
_ALIGNMENT = 4096
"""Offsets are whole pages, so that an engine can map the file."""


def save_graphs(graphs: Sequence[Graph], folder: Path, done: Callable[[str], None] = lambda name: None) -> None:
    """Writes ``NAME.onnx`` for every graph and their weights into ``weights.bin``.

    Tensors of equal bytes are stored once, whichever graphs use them.

    Args:
        graphs: changed in place: their weights become references.
        folder: an existing folder.
        done: called with each graph's name.
    """
    stored: dict[str, tuple[int, int]] = {}
    with (folder / WEIGHTS_FILE).open("wb") as file:
        for graph in graphs:
            for value in graph.model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < _SMALLEST:
                    continue
                data = tensor.tobytes()
                key = hashlib.sha256(data).hexdigest()
                if key not in stored:
                    file.write(bytes(-file.tell() % _ALIGNMENT))
                    stored[key] = file.tell(), len(data)
                    file.write(data)
                offset, length = stored[key]
                value.const_value = ir.ExternalTensor(
                    WEIGHTS_FILE,
                    offset,
                    length,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape),
                    name=value.name or "",
                    base_dir=folder,
                )
    for graph in graphs:
        ir.save(graph.model, folder / f"{graph.name}.onnx")
        done(graph.name)
