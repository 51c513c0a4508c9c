"""Gives an attention mask a row for every query: neither TensorRT nor ONNX Runtime takes one row for all of them."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir

from toprovar.compiler.graph import Graph
from toprovar.compiler.tensorrt.tape import Tape
from toprovar.plan import SparsityPlan

__all__ = ["spread_masks"]

_log = logging.getLogger(__name__)
_MASK = 3


def spread_masks(graph: Graph, plan: SparsityPlan) -> Graph:
    """Expands masks [R, 1, 1, T] of Attention to [R, 1, K, T]."""
    model = graph.model.clone()
    spread = 0
    for node in list(model.graph):
        if node.op_type != "Attention" or len(node.inputs) <= _MASK:
            continue
        query, mask = node.inputs[0], node.inputs[_MASK]
        if query is None or mask is None or mask.shape is None or mask.shape[2] != 1:
            continue
        tape = Tape(model, node, "mask")
        rows = tape.op("Shape", query, dtype=ir.DataType.INT64, start=2, end=3)
        one, two = tape.constant(np.array([1]), "one_size"), tape.constant(np.array([1, 1]), "two_sizes")
        shape = tape.op("Concat", two, rows, one, dtype=ir.DataType.INT64, axis=0)
        queries = None if query.shape is None else ir.Shape([*mask.shape[:2], query.shape[2], mask.shape[3]])
        node.replace_input_with(_MASK, tape.op("Expand", mask, shape, dtype=mask.dtype, shape=queries))
        spread += 1
    _log.info("%s: %d masks spread over their queries", graph.name, spread)
    return Graph(graph.name, model, graph.signature)
