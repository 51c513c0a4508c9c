"""Transposes attention's keys in one step instead of by way of three axes."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from toprovar.compiler.graph import Graph
from toprovar.plan import SparsityPlan

__all__ = ["transpose_keys"]

_log = logging.getLogger(__name__)


def transpose_keys(graph: Graph, plan: SparsityPlan) -> Graph:
    """Replaces the exporter's Reshape, Transpose, Reshape of [R, H, L, D] keys by one Transpose.

    The first Reshape's ``-1`` leaves no way to say that L is 0, as it is in a layer that is left out from
    the first scale on.
    """
    model = graph.model.clone()
    replaced = 0
    for last in list(model.graph):
        keys = _keys_behind(last)
        if keys is None:
            continue
        (old,) = last.outputs
        node = ir.Node("", "Transpose", [keys], [ir.AttrInt64s("perm", [0, 1, 3, 2])], name=f"{last.name}_keys")
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = f"{old.name}_keys", old.type, old.shape
        model.graph.insert_before(last, node)
        ir.convenience.replace_all_uses_with(old, node.outputs[0])
        replaced += 1
    RemoveUnusedNodesPass()(model)
    _log.info("%s: %d transpositions of keys simplified", graph.name, replaced)
    return Graph(graph.name, model, graph.signature)


def _keys_behind(last: ir.Node) -> ir.Value | None:
    """The keys where `last` ends such a chain: reshaped to [-1, L, D], transposed, reshaped to [..., D, L]."""
    swap = _producer(last, 0, "Transpose")
    flat = _producer(swap, 0, "Reshape")
    if last.op_type != "Reshape" or swap is None or flat is None:
        return None
    keys = flat.inputs[0]
    first, second = _producer(flat, 1, "Concat"), _producer(last, 1, "Concat")
    if keys is None or keys.shape is None or len(keys.shape) != 4 or first is None or second is None:
        return None
    lead, length, width = (*first.inputs, None, None, None)[:3]
    folded = lead is not None and lead.const_value is not None and lead.const_value.numpy().tolist() == [-1]
    swapped = swap.attributes.get_ints("perm") == (0, 2, 1) and tuple(second.inputs[-2:]) == (width, length)
    return keys if folded and swapped and len(first.inputs) == 3 else None


def _producer(node: ir.Node | None, index: int, kind: str) -> ir.Node | None:
    """The node behind an input, if it is of a kind."""
    if node is None or len(node.inputs) <= index:
        return None
    value = node.inputs[index]
    found = value.producer() if value is not None else None
    return found if found is not None and found.op_type == kind else None
