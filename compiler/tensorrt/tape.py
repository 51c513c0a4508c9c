"""Writes nodes into a graph in front of one that stands there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["Tape", "replace_value"]

Attribute = int | float | str | list[int]


class Tape:
    """Inserts nodes before `anchor`, named after it.

    Args:
        model: changed in place.
        anchor: a node of its graph.
        purpose: a word for the nodes' names, different in every pass.
    """

    def __init__(self, model: ir.Model, anchor: ir.Node, purpose: str) -> None:
        self._graph = model.graph
        self._anchor = anchor
        self._purpose = purpose
        self._count = 0

    def op(
        self,
        kind: str,
        *inputs: ir.Value,
        dtype: ir.DataType | None,
        shape: ir.Shape | None = None,
        **attributes: Attribute,
    ) -> ir.Value:
        """Adds a node of one output, which has the element type `dtype`."""
        node = ir.Node("", kind, inputs, ir.convenience.convert_attributes(attributes), name=self._name(kind))
        node.metadata_props.update(self._anchor.metadata_props)
        output = node.outputs[0]
        output.name, output.shape = f"{node.name}_output", shape
        output.type = None if dtype is None else ir.TensorType(dtype)
        self._graph.insert_before(self._anchor, node)
        return output

    def constant(self, array: np.ndarray, name: str | None = None) -> ir.Value:
        """A small constant; under a name that is known already it is the one of that name."""
        name = name or self._name("constant")
        if name in self._graph.initializers:
            return self._graph.initializers[name]
        value = ir.Value(name=name, const_value=ir.tensor(array))
        value.type, value.shape = ir.TensorType(ir.DataType.from_numpy(array.dtype)), ir.Shape(array.shape)
        self._graph.register_initializer(value)
        return value

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Lets everything that reads `old` read `new`; a graph output keeps its name."""
        replace_value(self._graph, old, new)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{self._anchor.name}_{self._purpose}_{kind.lower()}_{self._count}"


def replace_value(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Lets everything that reads `old` read `new`; a graph output keeps its name."""
    for index, output in enumerate(graph.outputs):
        if output is old:
            name, old.name = old.name, f"{old.name}_before"
            new.name = name
            graph.outputs[index] = new
    ir.convenience.replace_all_uses_with(old, new)
