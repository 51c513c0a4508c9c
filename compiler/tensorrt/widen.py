"""The float32 twin of a bfloat16 graph, for runtimes without bfloat16 arithmetic.

Its weights are those of the bfloat16 graph, digit by digit; only what lies between them is not rounded. ONNX Runtime on
a CPU has no product in bfloat16, so this is how it runs such a file.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

__all__ = ["widen"]

_HALF, _FULL = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def widen(model: ir.Model) -> ir.Model:
    """Makes float32 of everything that is bfloat16.

    Args:
        model: as loaded, its weights readable.

    Returns:
        Another model; its weights are read when they are saved.
    """
    twin = model.clone()
    graph = twin.graph
    for value in graph.initializers.values():
        if value.dtype == _HALF and value.const_value is not None:
            value.const_value = _widened(value.const_value)
    nodes = list(graph)
    for node in nodes:
        if node.op_type == "Cast" and node.attributes.get_int("to") == _HALF:
            node.attributes["to"] = ir.AttrInt64("to", _FULL)
    values: Iterable[ir.Value] = (
        *graph.inputs,
        *graph.initializers.values(),
        *(output for node in nodes for output in node.outputs),
    )
    for value in values:
        if value.dtype == _HALF:
            value.dtype = _FULL
    return twin


def _widened(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    return ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype(np.float32)), _FULL, ir.Shape(tensor.shape), name=tensor.name
    )
