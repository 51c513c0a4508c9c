"""Gives graphs with FlashAttentionEntropy nodes the operator's function body."""

from __future__ import annotations

import logging

from toprovar.compiler.graph import Graph
from toprovar.plan import SparsityPlan
from toprovar.plugins.fae.onnx_function import add_function
from toprovar.plugins.fae.schema import SCHEMA

__all__ = ["embed_operator"]

_log = logging.getLogger(__name__)


def embed_operator(graph: Graph, plan: SparsityPlan) -> Graph:
    """Adds the local function, so that one file runs with the plugin and without it."""
    nodes = sum(node.domain == SCHEMA.domain for node in graph.model.graph)
    if not nodes:
        return graph
    model = add_function(graph.model.clone())
    _log.info("%s: function body added for %d nodes", graph.name, nodes)
    return Graph(graph.name, model, graph.signature)
