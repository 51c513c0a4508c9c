"""Sorts without TopK.

TensorRT's TopK takes at most 3840 values, fewer than the tokens of a scale of 1024 x 1024 pixels, and promises nothing
about equal ones. A value's rank is the number of values before it, which needs comparisons and one sum; the order is
the inverse permutation, one scatter.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from toprovar.compiler.graph import Graph
from toprovar.compiler.tensorrt.tape import Tape
from toprovar.plan import SparsityPlan

__all__ = ["LARGEST_TOP_K", "rank_by_counting"]

LARGEST_TOP_K = 3840
"""Most values that TensorRT's TopK gives."""

_log = logging.getLogger(__name__)


def rank_by_counting(graph: Graph, plan: SparsityPlan) -> Graph:
    """Replaces each TopK that sorts a whole axis, ascending.

    Raises:
        ValueError: a TopK of another kind that TensorRT cannot run.
    """
    model = graph.model.clone()
    replaced = 0
    for node in list(model.graph):
        if node.op_type != "TopK":
            continue
        values, count = node.inputs
        if values is None or count is None:
            raise ValueError(f"{node.name} lacks an input")
        if count.const_value is not None and int(count.const_value.numpy().item()) <= LARGEST_TOP_K:
            continue
        if node.attributes.get_int("largest", 1) or node.attributes.get_int("axis", -1) != 1 or node.outputs[0].uses():
            raise ValueError(f"{node.name} is not an ascending sort of axis 1, the only one that can be replaced")
        tape = Tape(model, node, "rank")
        permutation = values.dtype == ir.DataType.INT64
        order = _inverse(tape, values if permutation else _ranks(tape, values))
        tape.replace(node.outputs[1], order)
        replaced += 1
    RemoveUnusedNodesPass()(model)
    _log.info("%s: %d sorts replaced by counting", graph.name, replaced)
    return Graph(graph.name, model, graph.signature)


def _ranks(tape: Tape, values: ir.Value) -> ir.Value:
    """Place of each value [B, L] in ascending order, equal ones as they stand; int64 [B, L]."""
    others = tape.op("Unsqueeze", values, tape.constant(np.array([1])), dtype=values.dtype)
    own = tape.op("Unsqueeze", values, tape.constant(np.array([2])), dtype=values.dtype)
    places = _places(tape, values)
    earlier = tape.op(
        "Less",
        tape.op("Unsqueeze", places, tape.constant(np.array([0])), dtype=ir.DataType.INT64),
        tape.op("Unsqueeze", places, tape.constant(np.array([1])), dtype=ir.DataType.INT64),
        dtype=ir.DataType.BOOL,
    )
    less = tape.op("Less", others, own, dtype=ir.DataType.BOOL)
    equal = tape.op("Equal", others, own, dtype=ir.DataType.BOOL)
    tied = tape.op("And", equal, earlier, dtype=ir.DataType.BOOL)
    before = tape.op("Or", less, tied, dtype=ir.DataType.BOOL)
    ones = tape.op("Cast", before, dtype=ir.DataType.INT32, to=ir.DataType.INT32)
    counted = tape.op("ReduceSum", ones, tape.constant(np.array([2])), dtype=ir.DataType.INT32, keepdims=0)
    return tape.op("Cast", counted, dtype=ir.DataType.INT64, to=ir.DataType.INT64)


def _inverse(tape: Tape, permutation: ir.Value) -> ir.Value:
    """The permutation [B, L] that undoes one."""
    shape = tape.op("Shape", permutation, dtype=ir.DataType.INT64)
    places = tape.op("Expand", _places(tape, permutation), shape, dtype=ir.DataType.INT64)
    return tape.op("ScatterElements", permutation, permutation, places, dtype=ir.DataType.INT64, axis=1)


def _places(tape: Tape, values: ir.Value) -> ir.Value:
    """0 to L - 1 for values [B, L]."""
    length = tape.op("Shape", values, dtype=ir.DataType.INT64, start=1, end=2)
    limit = tape.op("Squeeze", length, tape.constant(np.array([0])), dtype=ir.DataType.INT64)
    return tape.op("Range", tape.constant(np.array(0)), limit, tape.constant(np.array(1)), dtype=ir.DataType.INT64)
