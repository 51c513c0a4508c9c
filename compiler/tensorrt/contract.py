"""What a graph's file says of itself: its contract, its weights, its plugins; no weight is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from toprovar.plugins.fae.schema import SCHEMA
from toprovar.signature import Signature

__all__ = ["GraphFile", "read_graph_file"]


@dataclass(frozen=True)
class GraphFile:
    """Facts of an ONNX file.

    Attributes:
        path: of the file.
        contract: names and axes of its inputs and outputs.
        types: element type by input and output, as numpy or ml_dtypes spell it.
        weight_bytes: bytes of its weights.
        plugins: nodes that TensorRT must give to the plugin.
        quantized: products whose operands are in eight bits.
    """

    path: Path
    contract: Signature
    types: dict[str, str]
    weight_bytes: int
    plugins: int
    quantized: int

    @property
    def products(self) -> str:
        """What products are computed in, of a step: `float32`, `bfloat16`, or `float8` where the large ones are."""
        return "float8" if self.quantized else self.types["past_key.0"]


def read_graph_file(path: Path) -> GraphFile:
    """Reads an ONNX file whose axes bear the names of the signature (`toprovar.compiler.passes.name_axes`).

    Raises:
        ValueError: an input or output has no shape.
    """
    graph = ir.load(path).graph
    inputs, outputs = ({value.name or "": _axes(value) for value in side} for side in (graph.inputs, graph.outputs))
    weights = (value.const_value for value in graph.initializers.values())
    return GraphFile(
        path,
        Signature(inputs, outputs),
        {value.name or "": _type(value) for value in (*graph.inputs, *graph.outputs)},
        sum(tensor.nbytes for tensor in weights if tensor is not None),
        sum(node.op_type == SCHEMA.name and node.domain == SCHEMA.domain for node in graph),
        sum(node.op_type == "QuantizeLinear" for node in graph),
    )


def _axes(value: ir.Value) -> tuple[str, ...]:
    if value.shape is None:
        raise ValueError(f"{value.name} has no shape")
    return tuple(str(dim) if isinstance(dim, int) else dim.value or "" for dim in value.shape)


def _type(value: ir.Value) -> str:
    names = {ir.DataType.FLOAT: "float32", ir.DataType.FLOAT16: "float16"}
    return "" if value.dtype is None else names.get(value.dtype, value.dtype.name.lower())
