"""Rounds both operands of the blocks' large products to E4M3.

    input -> QuantizeLinear -> DequantizeLinear -> MatMul -> Mul -> ...
                       weight -> DequantizeLinear ---^        ^--- factors

TensorRT makes one product of eight-bit operands of it. It is known to do so where each operand has one scale, and not
where the weight has one for each output, so those are taken out of the weight and multiplied in afterwards. They are
powers of two: the result is the same, digit by digit. The weight lies in the graph in eight bits.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from toprovar.compiler.graph import Graph
from toprovar.compiler.tensorrt.float8 import input_scale, is_large, output_factors, round_weight
from toprovar.compiler.tensorrt.passes.name_nodes import module_of
from toprovar.compiler.tensorrt.tape import Tape, replace_value
from toprovar.input_ranges import InputRanges
from toprovar.plan import SparsityPlan

__all__ = ["float8_products"]

_BACKBONE = "backbone."
_EIGHT, _HALF, _FULL = ir.DataType.FLOAT8E4M3FN, ir.DataType.BFLOAT16, ir.DataType.FLOAT

_log = logging.getLogger(__name__)


def float8_products(graph: Graph, plan: SparsityPlan, ranges: InputRanges) -> Graph:
    """Quantises the large products of a graph in bfloat16; a graph that has none stays as it is.

    Args:
        graph: after `toprovar.compiler.tensorrt.passes.bfloat16_products`.
        plan: not read.
        ranges: of every large product's input.

    Raises:
        ValueError: the ranges are not those of this graph's products.
    """
    model = graph.model.clone()
    products = {_module(node): node for node in model.graph if _is_large(node)}
    if not products:
        return graph
    if products.keys() != ranges.largest.keys():
        unlike = sorted(products.keys() ^ ranges.largest.keys())
        raise ValueError(f"{graph.name} and the ranges of its inputs differ in {', '.join(unlike[:3])}")
    for module, node in products.items():
        _quantise(model, node, module, input_scale(ranges.largest[module], module))
    RemoveUnusedNodesPass()(model)
    _log.info("%s: %d products in eight bits", graph.name, len(products))
    return Graph(graph.name, model, graph.signature)


def _module(node: ir.Node) -> str:
    return module_of(node).removeprefix(_BACKBONE)


def _is_large(node: ir.Node) -> bool:
    if node.op_type != "MatMul" or not module_of(node).startswith(_BACKBONE) or not is_large(module_of(node)):
        return False
    weight = node.inputs[1]
    return weight is not None and weight.is_initializer()


def _quantise(model: ir.Model, node: ir.Node, module: str, scale: float) -> None:
    tape = Tape(model, node, "float8")
    given, weight = node.inputs
    if given is None or weight is None:
        raise ValueError(f"{module} lacks an operand")
    zero = tape.constant(np.zeros((), _EIGHT.numpy()), "float8_zero")
    source = _before_cast(given)
    full, half = (
        tape.constant(np.array(scale, kind.numpy()), f"{module}.input_scale_{kind.name.lower()}")
        for kind in (_FULL, _HALF)
    )
    # Both types of the scale are one number; a strongly typed network takes what it divides in the input's type, and
    # gives what it multiplies in the scale's.
    rounded = tape.op(
        "QuantizeLinear", source, full if source.dtype == _FULL else half, zero, dtype=_EIGHT, shape=source.shape
    )
    node.replace_input_with(0, tape.op("DequantizeLinear", rounded, half, zero, dtype=_HALF, shape=source.shape))
    values, factors = _operand(model, weight, module)
    one = tape.constant(np.ones((), _HALF.numpy()), "float8_one")
    node.replace_input_with(1, tape.op("DequantizeLinear", values, one, zero, dtype=_HALF, shape=values.shape))
    _multiply(model, node, factors)


def _before_cast(value: ir.Value) -> ir.Value:
    """The float32 value that a bfloat16 one was made of, so that it is rounded once; the value itself if it was not."""
    cast = value.producer()
    wide = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return wide if wide is not None and wide.dtype == _FULL else value


def _operand(model: ir.Model, weight: ir.Value, module: str) -> tuple[ir.Value, ir.Value]:
    """The weight in eight bits, and its factors; computed when they are written, since all together may be large."""
    tensor = weight.const_value
    if tensor is None or weight.shape is None:
        raise ValueError(f"{module} has no weight")
    values = ir.LazyTensor(
        lambda: ir.tensor(round_weight(tensor.numpy(), module).values),
        _EIGHT,
        ir.Shape(tensor.shape),
        name=f"{module}.weight_float8",
    )
    factors = ir.LazyTensor(
        lambda: ir.tensor(output_factors(tensor.numpy().astype(np.float32), module).astype(_HALF.numpy())),
        _HALF,
        ir.Shape(weight.shape[1:]),
        name=f"{module}.weight_factors",
    )
    made = []
    for one in (values, factors):
        value = ir.Value(name=one.name, type=ir.TensorType(one.dtype), shape=one.shape, const_value=one)
        model.graph.register_initializer(value)
        made.append(value)
    return made[0], made[1]


def _multiply(model: ir.Model, node: ir.Node, factors: ir.Value) -> None:
    """Lets what reads the product read it times the factors."""
    product = node.outputs[0]
    times = ir.Node("", "Mul", [product, factors], name=f"{node.name}_float8_times")
    times.metadata_props.update(node.metadata_props)
    result = times.outputs[0]
    result.name, result.type, result.shape = f"{product.name}_times", product.type, product.shape
    model.graph.insert_after(node, times)
    replace_value(model.graph, product, result)
    times.replace_input_with(0, product)
