"""Names every node after the module that it came from, so that TensorRT's messages name it too."""

from __future__ import annotations

import logging

import onnx_ir as ir

from toprovar.compiler.graph import Graph
from toprovar.plan import SparsityPlan

__all__ = ["module_of", "module_of_name", "name_nodes"]

_log = logging.getLogger(__name__)

_SCOPES = "namespace"
"""The exporter's own record: modules from the outermost in, as `NAME: class`, with slashes between."""


def name_nodes(graph: Graph, plan: SparsityPlan) -> Graph:
    """Names nodes ``MODULE/OPERATOR_NUMBER``; those of no module of their own get the graph's name."""
    model = graph.model.clone()
    for index, node in enumerate(model.graph):
        node.name = f"{module_of(node) or graph.name}/{node.op_type}_{index}"
    _log.info("%s: nodes named after their modules", graph.name)
    return Graph(graph.name, model, graph.signature)


def module_of(node: ir.Node) -> str:
    """Dotted name of the module that a node came from; empty for the graph's own."""
    scopes = (scope.partition(":")[0].strip() for scope in node.metadata_props.get(_SCOPES, "").split("/")[:-1])
    names = [name for name in scopes if name and not name.startswith("_empty")]
    return names[-1] if names else ""


def module_of_name(name: str) -> str:
    """The module that a node is named after."""
    return name.rpartition("/")[0]
