"""Gives bits as int32.

TensorRT has uint8 at the border of a network only, and a step reads its own bits again. Within, they are float32, since
ONNX Runtime cannot shuffle pixels of int32.
"""

from __future__ import annotations

import logging

import onnx_ir as ir

from toprovar.compiler.graph import Graph
from toprovar.plan import SparsityPlan

__all__ = ["integer_bits"]

_log = logging.getLogger(__name__)
_BITS = "bits"


def integer_bits(graph: Graph, plan: SparsityPlan) -> Graph:
    """Makes float32 of everything that is uint8, and int32 of the bits that are given out."""
    if _BITS not in graph.signature.outputs:
        return graph
    model = graph.model.clone()
    changed = 0
    for node in model.graph:
        if node.op_type == "Cast" and node.attributes.get_int("to") == ir.DataType.UINT8:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
        for value in node.outputs:
            if value.dtype == ir.DataType.UINT8:
                value.dtype = ir.DataType.FLOAT
                changed += 1
    for index, value in enumerate(model.graph.outputs):
        if value.name == _BITS:
            _give_out(model, index, value)
    _log.info("%s: %d tensors of uint8 widened", graph.name, changed)
    return Graph(graph.name, model, graph.signature)


def _give_out(model: ir.Model, index: int, value: ir.Value) -> None:
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", ir.DataType.INT32)], name="bits_as_integers")
    bits = cast.outputs[0]
    bits.type, bits.shape = ir.TensorType(ir.DataType.INT32), value.shape
    value.name, bits.name = f"{_BITS}_drawn", _BITS
    model.graph.outputs[index] = bits
    model.graph.append(cast)
