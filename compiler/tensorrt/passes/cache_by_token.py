"""Lays the cache out by tokens, so that an engine writes new keys and values where the next scale reads them.

With tokens first, those of a scale follow those before it in memory: the output is bound to the address behind the
input. What the engine still copies is the joined cache that attention reads.
"""

from __future__ import annotations

import logging

import onnx_ir as ir

from toprovar import signature
from toprovar.compiler.graph import Graph
from toprovar.compiler.tensorrt.tape import Tape, replace_value
from toprovar.plan import SparsityPlan

__all__ = ["cache_by_token"]

_log = logging.getLogger(__name__)
_TO_HEADS, _TO_TOKENS = [1, 2, 0, 3], [2, 0, 1, 3]


def cache_by_token(graph: Graph, plan: SparsityPlan) -> Graph:
    """Turns ``past`` to [P, R, H, D] and ``present`` to the new tokens alone, [K, R, H, D]."""
    if not any(name.startswith("past_") for name in graph.signature.inputs):
        return graph
    model = graph.model.clone()
    names = {value.name: value for value in model.graph.inputs}
    changed = 0
    for index, output in enumerate(list(model.graph.outputs)):
        if output.name is None or not output.name.startswith("present_"):
            continue
        past = names[output.name.replace("present_", "past_")]
        _turn_output(model, index, output, past)
        _turn_input(model, past)
        changed += 1
    _log.info("%s: %d caches laid out by tokens", graph.name, changed)
    return Graph(graph.name, model, signature.by_token(graph.signature))


def _turn_output(model: ir.Model, index: int, output: ir.Value, past: ir.Value) -> None:
    """Puts the new tokens, turned, in the place of the joined ones."""
    joint = output.producer()
    if joint is None or joint.op_type != "Concat" or joint.inputs[0] is not past or len(joint.inputs) != 2:
        raise ValueError(f"{output.name} is not {past.name} with new tokens behind it")
    new = joint.inputs[1]
    if new is None or new.shape is None:
        raise ValueError(f"{output.name} joins a tensor of unknown shape")
    shape = _turned(new.shape, _TO_TOKENS)
    turned = Tape(model, joint, "turn").op("Transpose", new, dtype=new.dtype, shape=shape, perm=_TO_TOKENS)
    name, output.name = output.name or "", f"{output.name}_joined"
    turned.name = name.replace("present_", "new_")
    model.graph.outputs[index] = turned


def _turn_input(model: ir.Model, past: ir.Value) -> None:
    if past.shape is None:
        raise ValueError(f"{past.name} has no shape")
    first = next(iter(model.graph))
    tape = Tape(model, first, "turn")
    shape = past.shape
    turned = tape.op("Transpose", past, dtype=past.dtype, shape=shape, perm=_TO_HEADS)
    turned.name = f"{past.name}_by_head"
    past.shape = _turned(shape, _TO_TOKENS)
    transpose = turned.producer()
    replace_value(model.graph, past, turned)
    if transpose is not None:
        transpose.name = f"{past.name}_turned"
        transpose.replace_input_with(0, past)


def _turned(shape: ir.Shape, order: list[int]) -> ir.Shape:
    return ir.Shape([shape[axis] for axis in order])
