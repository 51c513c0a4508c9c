"""A graph on its way through the compiler."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from toprovar.signature import Signature

__all__ = ["Graph"]


@dataclass(frozen=True)
class Graph:
    """An ONNX model with the contract that it fulfils.

    Attributes:
        name: file name without ending.
        model: the graph; weights still in memory until `toprovar.compiler.weights.save_graphs`.
        signature: names and axes of its inputs and outputs.
    """

    name: str
    model: ir.Model
    signature: Signature
