"""The graphs of a TensorRT deployment: text, prompt, one step for every scale, decoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from toprovar import interruption
from toprovar.compiler.export_onnx import export_graph
from toprovar.compiler.graph import Graph
from toprovar.compiler.modules import build_modules
from toprovar.compiler.tensorrt.passes import Precision, passes_for
from toprovar.compiler.trace import trace_graph
from toprovar.input_ranges import InputRanges
from toprovar.manifest import ModelRecord
from toprovar.models.loader import LoadedModel
from toprovar.plan import SparsityPlan
from toprovar.signature import Signature

__all__ = ["OPSET", "STEP", "exported_graphs", "lower", "step_module", "tensorrt_graphs", "tensorrt_modules"]

OPSET = 23
"""The first with Attention, which TensorRT fuses since 10.14 and ONNX Runtime runs too."""

STEP = "step"
"""The graph of every scale, dense or sparse."""


def step_module(plan: SparsityPlan) -> str:
    """Which of `toprovar.compiler.modules.build_modules` is the step: dense scales are the adaptive one's, unpruned."""
    return "dense" if plan.is_dense and not plan.ranking.observers else "adaptive"


def tensorrt_modules(
    loaded: LoadedModel, record: ModelRecord, plan: SparsityPlan
) -> dict[str, tuple[nn.Module, Signature]]:
    """Every graph of a TensorRT deployment as the module that defines it, with the module's own contract."""
    modules = build_modules(loaded, record, plan.pruning)
    step = modules[step_module(plan)]
    return {name: modules[name] for name in modules if name not in ("dense", "adaptive")} | {STEP: step}


def tensorrt_graphs(
    loaded: LoadedModel,
    record: ModelRecord,
    plan: SparsityPlan,
    precision: Precision,
    done: Callable[[int, int], None] = lambda done, total: None,
    ranges: InputRanges | None = None,
) -> list[Graph]:
    """Exports a plan's graphs and runs the passes over them.

    Args:
        loaded: the model.
        record: its facts.
        plan: what its step prunes.
        precision: of products and the cache.
        done: told how many of how many are exported.
        ranges: of the large products' inputs, which ``float8`` needs.

    Raises:
        UsageError: the precision is unknown, or lacks the ranges.
    """
    passes_for(precision, ranges)  # what is wrong with it is told before the work
    # Words are looked up once a prompt: nothing is gained by rounding them.
    words = loaded.text is not None and loaded.text.kind == "words"
    exported = exported_graphs(loaded, record, plan, done)
    return [
        lower(graph, plan, "float32" if words and graph.name == "text" else precision, ranges) for graph in exported
    ]


def exported_graphs(
    loaded: LoadedModel,
    record: ModelRecord,
    plan: SparsityPlan,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> list[Graph]:
    """A plan's graphs as the exporter leaves them, the same for every precision; arguments as of `tensorrt_graphs`."""
    modules = tensorrt_modules(loaded, record, plan)
    channels, observers = loaded.backbone.config.text_channels, len(plan.ranking.observers)
    graphs = []
    for name, (module, contract) in modules.items():
        with interruption.deferred(f"the export of {name}"):
            traced = trace_graph(name, module, contract, record, observers, channels)
            graphs.append(export_graph(traced, plan, OPSET, ()))
        done(len(graphs), len(modules))
    return graphs


def lower(graph: Graph, plan: SparsityPlan, precision: Precision, ranges: InputRanges | None = None) -> Graph:
    """Runs TensorRT's passes over an exported graph; arguments as of `tensorrt_graphs`."""
    for transform in passes_for(precision, ranges):
        graph = transform(graph, plan)
    return graph
