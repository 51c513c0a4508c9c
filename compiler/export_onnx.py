"""Traced modules to ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import torch

from toprovar.compiler.graph import Graph
from toprovar.compiler.passes import PASSES, GraphPass
from toprovar.compiler.trace import TracedGraph
from toprovar.plan import SparsityPlan
from toprovar.plugins.fae.onnx_function import translation_table

__all__ = ["OPSET", "export_graph"]

OPSET = 20
"""Oldest ONNX opset with Gelu and LayerNormalization, which TensorRT 10.15 and ONNX Runtime both fuse."""


def export_graph(
    traced: TracedGraph, plan: SparsityPlan, opset: int = OPSET, passes: Sequence[GraphPass] = PASSES
) -> Graph:
    """Translates one traced module and runs the passes over it.

    Args:
        traced: the module.
        plan: what the passes may read.
        opset: ONNX opset of the graph.
        passes: what is run over it, in order.
    """
    with _quiet():
        program = torch.onnx.export(
            traced.program,
            (),
            input_names=list(traced.signature.inputs),
            output_names=list(traced.signature.outputs),
            opset_version=opset,
            dynamo=True,
            custom_translation_table=translation_table(),
        )
    if program is None:
        raise RuntimeError(f"the exporter returned nothing for {traced.name}")
    graph = Graph(traced.name, program.model, traced.signature)
    for transform in passes:
        graph = transform(graph, plan)
    return graph


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and warns about packages that are not used here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
