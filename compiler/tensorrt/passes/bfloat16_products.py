"""Computes matrix products, attention and convolutions in bfloat16, and everything between them in float32.

A strongly typed network is computed as it is written, so the types are written out: products take and give bfloat16,
casts stand around them, and those that meet cancel out. The cache is bfloat16 from end to end. What makes the picture
stays in float32: the residual stream, norms, softmax inside attention, rotary angles, embeddings, logits, sampling,
sums of codes and their resizing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from toprovar.compiler.graph import Graph
from toprovar.compiler.tensorrt.passes.name_nodes import module_of
from toprovar.compiler.tensorrt.tape import Tape, replace_value
from toprovar.plan import SparsityPlan
from toprovar.plugins.fae.schema import SCHEMA

__all__ = ["CACHED", "bfloat16_products"]

CACHED = ("past_", "new_", "text_key.", "text_value.")
"""How names of inputs and outputs begin that are bfloat16."""

_PRODUCTS = ("MatMul", "Gemm", "Conv", "Attention", SCHEMA.name)
_WHOLE = ("head", "head_nm", "word_embed", "shared_ada_lin")
"""Parts of the names of modules whose products stay in float32: small, and close to the bits."""
_MOVES = ("Transpose", "Reshape", "Concat", "Slice", "Unsqueeze", "Squeeze", "Expand", "Gather", "Identity")
"""Operators that move elements as they are; only Concat reads more than one tensor of them."""
_MASK = 3
_LEAST = -float.fromhex("0x1.fep127")
"""Most negative number of bfloat16."""
_HALF, _FULL = ir.DataType.BFLOAT16, ir.DataType.FLOAT

_log = logging.getLogger(__name__)


def bfloat16_products(graph: Graph, plan: SparsityPlan) -> Graph:
    """Casts around products, the cache to bfloat16, then cancels casts that meet."""
    model = graph.model.clone()
    products = [node for node in model.graph if _is_narrow(node)]
    for node in products:
        _narrow(model, node)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name is not None and value.name.startswith(CACHED):
            _narrow_border(model, value)
    while sum(_settle(model, cast) for cast in list(_casts(model))):
        pass
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)
    _log.info("%s: %d products in bfloat16 between %d casts", graph.name, len(products), len(list(_casts(model))))
    return Graph(graph.name, model, graph.signature)


def _is_narrow(node: ir.Node) -> bool:
    """Whether a node is a product of a module, other than those that stay whole."""
    parts = module_of(node).split(".")
    return node.op_type in _PRODUCTS and parts != [""] and not set(_WHOLE) & set(parts)


def _narrow(model: ir.Model, node: ir.Node) -> None:
    tape = Tape(model, node, "narrow")
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != _FULL:
            continue
        if node.op_type == "Attention" and index == _MASK:
            # The most negative float32 would become minus infinity.
            least = tape.constant(np.array(_LEAST, np.float32), "least_bfloat16")
            value = tape.op("Clip", value, least, dtype=_FULL, shape=value.shape)
        node.replace_input_with(index, tape.op("Cast", value, dtype=_HALF, shape=value.shape, to=_HALF))
    # The operator's entropy is float32 whatever the type of its inputs.
    for output in node.outputs[:1]:
        _widen(model, node, output)


def _widen(model: ir.Model, node: ir.Node, value: ir.Value) -> None:
    """Lets what reads a float32 value that becomes bfloat16 read a cast of it."""
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", _FULL)], name=f"{node.name}_widened")
    cast.metadata_props.update(node.metadata_props)
    wide = cast.outputs[0]
    wide.name, wide.type, wide.shape = f"{value.name}_widened", ir.TensorType(_FULL), value.shape
    model.graph.insert_after(node, cast)
    replace_value(model.graph, value, wide)
    cast.replace_input_with(0, value)
    value.dtype = _HALF


def _narrow_border(model: ir.Model, value: ir.Value) -> None:
    """Makes an input or output of the graph bfloat16."""
    producer = value.producer()
    if producer is None:
        tape = Tape(model, next(iter(model.graph)), value.name or "input")
        wide = tape.op("Cast", value, dtype=_FULL, shape=value.shape, to=_FULL)
        wide.name, cast = f"{value.name}_widened", wide.producer()
        ir.convenience.replace_all_uses_with(value, wide)
        if cast is not None:
            cast.replace_input_with(0, value)
        value.dtype = _HALF
        return
    cast = ir.Node("", "Cast", [value], [ir.AttrInt64("to", _HALF)], name=f"{producer.name}_narrowed")
    narrow = cast.outputs[0]
    narrow.type, narrow.shape = ir.TensorType(_HALF), value.shape
    narrow.name, value.name = value.name, f"{value.name}_whole"
    model.graph.insert_after(producer, cast)
    model.graph.outputs[list(model.graph.outputs).index(value)] = narrow


def _casts(model: ir.Model) -> Iterator[ir.Node]:
    """Every cast to bfloat16."""
    return (node for node in model.graph if _is_cast(node, _HALF))


def _is_cast(node: ir.Node | None, to: ir.DataType) -> bool:
    return node is not None and node.op_type == "Cast" and node.attributes.get_int("to") == to


def _settle(model: ir.Model, cast: ir.Node) -> bool:
    """Cancels a cast to bfloat16, or takes it one step towards where it can be cancelled; whether it could."""
    value = cast.inputs[0]
    if value is None or cast.graph is None:
        return False
    producer = value.producer()
    if _is_cast(producer, _FULL) and producer is not None and producer.inputs[0] is not None:
        if producer.inputs[0].dtype != _HALF:
            return False
        _replace_cast(model, cast, producer.inputs[0])
        return True
    if value.const_value is not None and value.is_initializer():
        _replace_cast(model, cast, _narrow_constant(model, value))
        return True
    if producer is None or producer.op_type not in _MOVES or value.is_graph_output():
        return False
    if not all(_is_cast(user, _HALF) or user.op_type == "Shape" for user in value.consumers()):
        return False
    tape = Tape(model, producer, "settle")
    moved = range(len(producer.inputs) if producer.op_type == "Concat" else 1)
    for index in moved:
        source = producer.inputs[index]
        if source is not None:
            narrow = tape.op("Cast", source, dtype=_HALF, shape=source.shape, to=_HALF)
            narrow.name = f"{source.name}_narrowed_for_{value.name}"
            producer.replace_input_with(index, narrow)
    value.dtype = _HALF
    for user in list(value.consumers()):
        if _is_cast(user, _HALF):
            _replace_cast(model, user, value)
    return True


def _replace_cast(model: ir.Model, cast: ir.Node, value: ir.Value) -> None:
    replace_value(model.graph, cast.outputs[0], value)
    model.graph.remove(cast, safe=True)


def _narrow_constant(model: ir.Model, value: ir.Value) -> ir.Value:
    """The constant in bfloat16, made once."""
    tensor = value.const_value
    if tensor is None:
        raise ValueError(f"{value.name} is no constant")
    name = value.name or ""
    half = f"{name}_bfloat16"
    known = model.graph.initializers.get(half)
    if known is not None:
        return known
    narrow = ir.LazyTensor(
        lambda: ir.tensor(tensor.numpy().astype(_HALF.numpy())), _HALF, ir.Shape(tensor.shape), name=half
    )
    result = ir.Value(name=half, type=ir.TensorType(_HALF), shape=ir.Shape(tensor.shape), const_value=narrow)
    model.graph.register_initializer(result)
    return result
