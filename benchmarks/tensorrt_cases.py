"""The graphs that `tensorrt_parse.py` exports."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import torch
from torch import nn

from toprovar.calibration.policies.dense import dense_plan
from toprovar.calibration.policy import Task
from toprovar.compiler.graph import Graph
from toprovar.compiler.tensorrt.contract import read_graph_file
from toprovar.compiler.tensorrt.graphs import tensorrt_graphs
from toprovar.compiler.tensorrt.profiles import Limits, graph_profiles
from toprovar.compiler.tensorrt.range_meter import RangeMeter
from toprovar.conform import to_plain
from toprovar.input_ranges import InputRanges
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.checkpoint import read_state_dict
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.loader import Defaults, LoadedModel, build_meta, build_pair, load_model
from toprovar.models.schedules import Schedule, schedule
from toprovar.plan import DepthRule, Ranking, SparsityPlan
from toprovar.pruning import Pruning

__all__ = ["ExportCase", "export_case", "full_size_case", "golden_case", "nano_case", "small_cases"]

_SMALL_BYTES = 1 << 16
"""Tensors up to here get numbers of their own; larger ones repeat one, and take no memory."""

_SMALL_GRIDS: Schedule = ((1, 1), (2, 2), (3, 4), (4, 5))
_PRUNINGS = {
    "previous-identity": Pruning("previous_scale", (1,)),
    "own-cached": Pruning("own_scale", (0, 1), "cached"),
    "both-nearest": Pruning("both_scales", (0,), "nearest"),
    "change-anchor": Pruning("chunk_change", restoration="anchor"),
    "structure-blank": Pruning("structure_texture", restoration="blank"),
    "deviation-reused": Pruning("deviation", restoration="cached", reuses_guidance=True),
    "random-reused": Pruning("random", restoration="blank", reuses_guidance=True),
    "none": Pruning(),
}


@dataclass(frozen=True)
class ExportCase:
    """A model and a plan.

    Attributes:
        name: of its folder.
        loaded: the model.
        grids: its schedule.
        pruning: what the plan prunes.
        text_tokens: text tokens at most.
    """

    name: str
    loaded: LoadedModel
    grids: Schedule
    pruning: Pruning
    text_tokens: int


def full_size_case(keys: Path) -> ExportCase:
    """A published model from the shapes of its tensors, at one megapixel."""
    shapes = {
        part: {name: tuple(entry[0]) for name, entry in tensors.items()}
        for part, tensors in json.loads(keys.read_text()).items()
    }
    name = keys.name.partition(".")[0]
    pair = build_meta(shapes["transformer"], shapes["vae"], name)
    for model in pair:
        _give_numbers(model)
    layers = pair[0].config.depth
    pruning = Pruning("previous_scale", (layers // 4, layers // 2))
    return ExportCase(name, _loaded(name, *pair), schedule("1:1", "1M"), pruning, 512)


def golden_case(stem: Path) -> ExportCase:
    """A golden model."""
    facts = json.loads(stem.with_suffix(".json").read_text())
    parts = (read_state_dict(stem.with_suffix(f".{part}.safetensors")) for part in ("transformer", "vae"))
    pair = build_pair(*parts, stem.name)
    grids = tuple((height, width) for height, width in facts["scale_schedule"])
    return ExportCase(
        stem.name, _loaded(stem.name, *pair), grids, Pruning("previous_scale", (1,)), facts["text_maxlen"]
    )


def nano_case() -> ExportCase:
    """Nano, its text encoder included."""
    loaded = load_model("nano")
    most = loaded.backbone.config.text_max_tokens
    return ExportCase("nano", loaded, loaded.schedule(), Pruning("previous_scale", (3,)), most)


def small_cases() -> Iterator[ExportCase]:
    """A model of two layers for every kind of pruning, with and without spatial patchify."""
    for index, (name, pruning) in enumerate(_PRUNINGS.items()):
        torch.manual_seed(index)
        patchify = index % 2 == 1
        backbone = Infinity(InfinityConfig(2, 2, 64, 2, 128, 16, 12, 6, 4, 15))
        vae = BSQVAE(VAEConfig(4 if patchify else 16, (32, 32), (32, 32), 1, 1))
        for model in (backbone, vae):
            model.eval().requires_grad_(False)
        yield ExportCase(f"small-{name}", _loaded(name, backbone, vae), _SMALL_GRIDS, pruning, 6)


def export_case(case: ExportCase, folder: Path, precision: str, images: int = 2) -> None:
    """Writes a case's graphs, without weights, with contracts and profiles beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    record = case.loaded.record(case.grids)
    plan = _plan(case, record)
    ranges = _ranges(case.loaded, record.sha256) if precision == "float8" else None
    graphs = tensorrt_graphs(case.loaded, record, plan, precision, ranges=ranges)
    channels = case.loaded.backbone.config.text_channels
    contracts = {graph.name: graph.signature for graph in graphs}
    profiles = graph_profiles(contracts, record, plan, Limits(images, case.text_tokens, channels))
    size = _save_without_weights(graphs, folder)
    files = {graph.name: read_graph_file(folder / f"{graph.name}.onnx") for graph in graphs}
    facts = {
        "weights_bytes": size,
        "graphs": {
            graph.name: {
                "inputs": graph.signature.inputs,
                "outputs": graph.signature.outputs,
                "types": files[graph.name].types,
                "plugins": files[graph.name].plugins,
                "quantized": files[graph.name].quantized,
                "profiles": [to_plain(profile) for profile in profiles[graph.name]],
            }
            for graph in graphs
        },
    }
    (folder / "cases.json").write_text(json.dumps(facts))


def _ranges(loaded: LoadedModel, sha256: str) -> InputRanges:
    """A range for every large product: the parser looks at no number but whether a scale is positive."""
    return InputRanges(sha256, (), 1, dict.fromkeys(RangeMeter(loaded.backbone).modules, 1.0))


def _plan(case: ExportCase, record: object) -> SparsityPlan:
    """Every second layer keeps half of the last scales' tokens; a prompt may start early or late."""
    task = Task(record, 1.0, 4)  # type: ignore[arg-type]
    plan = dense_plan(case.grids, task)
    pruning, last = case.pruning, len(case.grids)
    heads = case.loaded.backbone.config.heads
    table = (((0.8,) * heads,) * len(pruning.observers),) * last if pruning.observers else ()
    first = max(last - 4, 2)
    sorts = pruning.selector != "none"
    whole = pruning.restoration in ("anchor", "nearest")

    def kept(scale: int, tokens: int) -> tuple[int, ...]:
        if scale < first:
            return (tokens,) * plan.layers
        few = tokens // 2 if sorts else 0
        return tuple(few if layer % 2 or whole else tokens for layer in range(plan.layers))

    scales = tuple(
        dataclasses.replace(
            one,
            kept=kept(index, one.tokens),
            unconditional="reused" if pruning.reuses_guidance and index == last - 1 else "full",
        )
        for index, one in enumerate(plan.scales)
    )
    rule = None
    if pruning.observers and last > 4:
        rule = DepthRule("low_entropy_ratio", first - 1, -0.5, (0.5,), (first, first + 1))
    ranking = Ranking(pruning.selector, pruning.observers, table, table)
    return dataclasses.replace(plan, scales=scales, ranking=ranking, restoration=pruning.restoration, depth_rule=rule)


def _loaded(name: str, backbone: Infinity, vae: BSQVAE) -> LoadedModel:
    patchify = backbone.config.code_bits != vae.config.bits
    return LoadedModel("infinity", name, "0" * 64, backbone, vae, patchify, None, Defaults(3.0, 1.0), "1M")


def _give_numbers(model: nn.Module) -> None:
    """Puts numbers into a model on the meta device; large tensors repeat one number and take no memory."""
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                if tensor is None:
                    continue
                small = tensor.numel() * 4 <= _SMALL_BYTES
                made = torch.full(tensor.shape, 0.01) if small else torch.full((1,), 0.01).expand(tensor.shape)
                made = made.to(tensor.dtype)
                kind[name] = nn.Parameter(made, requires_grad=False) if kind is module._parameters else made
    model.eval()


def _save_without_weights(graphs: list[Graph], folder: Path) -> int:
    """Writes graphs that refer to a file of weights, which is not written; its size."""
    size = 0
    for graph in graphs:
        for value in graph.model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < 1024:
                continue
            value.const_value = ir.ExternalTensor(
                "weights.bin", size, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape), name=value.name or ""
            )
            size += -(-tensor.nbytes // 4096) * 4096
    for graph in graphs:
        ir.save(graph.model, folder / f"{graph.name}.onnx")
    return size
