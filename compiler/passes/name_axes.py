"""Names the symbolic axes of a graph's inputs and outputs as the signature does."""

from __future__ import annotations

import logging

import onnx_ir as ir

from toprovar.compiler.graph import Graph
from toprovar.plan import SparsityPlan

__all__ = ["name_axes"]

_log = logging.getLogger(__name__)


def name_axes(graph: Graph, plan: SparsityPlan) -> Graph:
    """Replaces the tracer's symbols: a reader and a profile builder see ``R``, ``L``, ``P3``."""
    model = graph.model.clone()
    values = [*zip(model.graph.inputs, graph.signature.inputs.values(), strict=True)]
    values += zip(model.graph.outputs, graph.signature.outputs.values(), strict=True)
    renamed = 0
    for value, axes in values:
        if value.shape is None:
            continue
        dims = [dim if isinstance(dim, int) else axis for dim, axis in zip(value.shape, axes, strict=True)]
        renamed += sum(isinstance(dim, str) for dim in dims)
        value.shape = ir.Shape(dims)
    _log.info("%s: %d axes named", graph.name, renamed)
    return Graph(graph.name, model, graph.signature)
