"""Keeps attention away from nothing: a layer that a plan leaves out has no queries, and maybe no keys.

Neither ONNX Runtime's Attention nor a kernel's launch grid takes an empty axis. Where there is no row, one of zeros is
added, and what comes of it is cut off; where there are rows, nothing is added. Only layers that the plan leaves out at
some scale are guarded.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir

from toprovar.compiler.graph import Graph
from toprovar.compiler.tensorrt.tape import Tape, replace_value
from toprovar.plan import SparsityPlan
from toprovar.plugins.fae.schema import SCHEMA

__all__ = ["guard_empty_attention"]

_log = logging.getLogger(__name__)
_TOKENS = 2


def guard_empty_attention(graph: Graph, plan: SparsityPlan) -> Graph:
    """Pads queries, keys and values of attention that may have none of them."""
    left_out = {layer for layer in range(plan.layers) if any(scale.kept[layer] == 0 for scale in plan.scales)}
    names = {f"{stem}_key.{layer}" for layer in left_out for stem in ("present", "text")}
    model = graph.model.clone()
    guarded = 0
    for node in list(model.graph):
        if node.op_type not in ("Attention", SCHEMA.name) or node.inputs[1] is None or node.inputs[1].name not in names:
            continue
        _guard(model, node)
        guarded += 1
    _log.info("%s: %d attentions guarded against empty layers", graph.name, guarded)
    return Graph(graph.name, model, graph.signature)


def _guard(model: ir.Model, node: ir.Node) -> None:
    tape = Tape(model, node, "guard")
    query = node.inputs[0]
    if query is None:
        raise ValueError(f"{node.name} has no query")
    rows = _rows(tape, query)
    own_keys = (node.inputs[1].name or "").startswith("present") if node.inputs[1] is not None else False
    for index in (0, 1, 2) if own_keys else (0,):
        value = node.inputs[index]
        if value is not None:
            node.replace_input_with(index, _padded(tape, value))
    for output in node.outputs:
        _cut(model, node, output, rows)


def _rows(tape: Tape, value: ir.Value) -> ir.Value:
    return tape.op("Shape", value, dtype=ir.DataType.INT64, start=_TOKENS, end=_TOKENS + 1)


def _padded(tape: Tape, value: ir.Value) -> ir.Value:
    """The value [R, H, K, D] with a row of zeros if K is 0."""
    one, none = tape.constant(np.array([1]), "one_size"), tape.constant(np.array([0]), "no_size")
    lacking = tape.op(
        "Max", tape.op("Sub", one, _rows(tape, value), dtype=ir.DataType.INT64), none, dtype=ir.DataType.INT64
    )
    before = tape.op("Shape", value, dtype=ir.DataType.INT64, start=0, end=_TOKENS)
    after = tape.op("Shape", value, dtype=ir.DataType.INT64, start=_TOKENS + 1, end=_TOKENS + 2)
    shape = tape.op("Concat", before, lacking, after, dtype=ir.DataType.INT64, axis=0)
    zero = tape.constant(np.zeros((1, 1, 1, 1), np.float32), "zero_row")
    zeros = tape.op("Expand", zero, shape, dtype=value.dtype)
    return tape.op("Concat", value, zeros, dtype=value.dtype, axis=_TOKENS)


def _cut(model: ir.Model, node: ir.Node, output: ir.Value, rows: ir.Value) -> None:
    """Lets what reads an output read its first `rows` rows."""
    starts, axes = (_constant(model, name, value) for name, value in (("no_size", 0), ("token_axis", _TOKENS)))
    cut = ir.Node("", "Slice", [output, starts, rows, axes], name=f"{node.name}_cut_{output.name}")
    cut.metadata_props.update(node.metadata_props)
    short = cut.outputs[0]
    short.name, short.type, short.shape = f"{output.name}_cut", output.type, output.shape
    output.shape = None
    model.graph.insert_after(node, cut)
    replace_value(model.graph, output, short)
    cut.replace_input_with(0, output)


def _constant(model: ir.Model, name: str, number: int) -> ir.Value:
    return Tape(model, next(iter(model.graph)), "guard").constant(np.array([number]), name)
