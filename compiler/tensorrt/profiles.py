"""Optimisation profiles: which shapes an engine is built for, read off a plan.

A step's engine has one profile for every scale that runs dense and one for every scale that runs sparse. Within one,
nothing varies but the batch, the text and how much earlier scales left in the cache: a kept count is one number, so
that kernels are chosen for what will run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toprovar.engines import EngineProfile, Span
from toprovar.manifest import ModelRecord
from toprovar.plan import SparsityPlan
from toprovar.signature import Signature, fixed_axes

__all__ = ["KEPT", "Limits", "depths", "graph_profiles", "output_shapes", "step_profiles"]

KEPT = "kept"
"""The step's input that holds sizes."""

_PREVIEW = 4
"""Schedule index whose grid small pictures are decoded at (`toprovar.runtime.statistics.high_frequency`)."""
_USUAL_TEXT = 64

_Sizes = tuple[int, int, int]
"""Least, usual and most of an axis."""


@dataclass(frozen=True)
class Limits:
    """What a deployment is built to take.

    Attributes:
        images: images at most that run together.
        text_tokens: text tokens at most.
        text_channels: channels of the text features.
    """

    images: int
    text_tokens: int
    text_channels: int


def depths(plan: SparsityPlan) -> tuple[int, ...]:
    """First sparse scales that can occur, the dense generation's among them."""
    rule = plan.depth_rule
    return tuple(sorted({*(rule.depths if rule else (0,)), len(plan.scales)}))


def graph_profiles(
    contracts: Mapping[str, Signature], record: ModelRecord, plan: SparsityPlan, limits: Limits
) -> dict[str, tuple[EngineProfile, ...]]:
    """The profiles of every graph, by its name.

    Args:
        contracts: of `toprovar.compiler.tensorrt.graphs.tensorrt_graphs`.
        record: facts of the model.
        plan: what the step prunes.
        limits: what else may come.
    """
    batch = _batch(limits, unconditional=True) | _text(limits) | _fixed(record, plan, limits)
    made: dict[str, tuple[EngineProfile, ...]] = {}
    for name, contract in contracts.items():
        if "kept" in contract.inputs or "rope" in contract.inputs:
            made[name] = step_profiles(contract, record, plan, limits)
        elif name == "decode":
            made[name] = _decode_profiles(contract, record, plan, batch)
        else:
            made[name] = (_profile("any text", None, False, contract, batch),)
    return made


def step_profiles(
    contract: Signature, record: ModelRecord, plan: SparsityPlan, limits: Limits
) -> tuple[EngineProfile, ...]:
    """One profile for each scale and way of running it that can occur.

    Args:
        contract: the step's inputs and outputs, cached by token.
        record: facts of the model.
        plan: kept counts.
        limits: what else may come.
    """
    profiles = []
    for scale, one in enumerate(plan.scales):
        for sparse in (False, True):
            reached = [depth for depth in depths(plan) if (scale >= depth and not one.is_dense) == sparse]
            if not reached:
                continue
            kept = plan.kept(scale, min(reached)) if sparse else (one.tokens,) * plan.layers
            alone = sparse and one.unconditional != "full"
            sizes = _batch(limits, not alone) | _text(limits) | _fixed(record, plan, limits)
            sizes |= _grid(record, plan, scale) | _cached(plan, scale, reached)
            name = f"scale {scale}, {'sparse' if sparse else 'dense'}"
            profiles.append(_profile(name, scale, sparse, contract, sizes, kept))
    return tuple(profiles)


def _profile(
    name: str,
    scale: int | None,
    sparse: bool,
    contract: Signature,
    sizes: Mapping[str, _Sizes],
    kept: tuple[int, ...] = (),
) -> EngineProfile:
    shapes = {}
    for tensor, axes in contract.inputs.items():
        spans = [sizes[axis] if axis in sizes else (int(axis),) * 3 for axis in axes]
        shapes[tensor] = Span(*(tuple(span[which] for span in spans) for which in range(3)))
    values = {KEPT: Span(kept, kept, kept)} if KEPT in contract.inputs else {}
    return EngineProfile(name, scale, sparse, shapes, values)


def _decode_profiles(
    contract: Signature, record: ModelRecord, plan: SparsityPlan, batch: dict[str, _Sizes]
) -> tuple[EngineProfile, ...]:
    factor = 2 if record.patchify else 1
    grids = [(scale.height * factor, scale.width * factor) for scale in plan.scales]
    preview = grids[min(_PREVIEW, len(grids) - 1)]
    whole = {"h": _exactly(record.latent_height), "w": _exactly(record.latent_width)}
    small = {"h": (1, preview[0], record.latent_height), "w": (1, preview[1], record.latent_width)}
    return (
        _profile("image", None, False, contract, batch | whole),
        _profile("preview", None, False, contract, batch | small),
    )


def _exactly(size: int) -> _Sizes:
    return size, size, size


def _batch(limits: Limits, unconditional: bool) -> dict[str, _Sizes]:
    """Images and rows; both halves of a guidance pair, unless the unconditional one is never there."""
    most = limits.images
    return {"B": (1, 1, most), "R": (1, 2, 2 * most) if unconditional else (1, 1, most)}


def _text(limits: Limits) -> dict[str, _Sizes]:
    return {"T": (1, min(_USUAL_TEXT, limits.text_tokens), limits.text_tokens)}


def _fixed(record: ModelRecord, plan: SparsityPlan, limits: Limits) -> dict[str, _Sizes]:
    sizes = fixed_axes(record, len(plan.ranking.observers), limits.text_channels)
    sizes |= {"h": record.latent_height, "w": record.latent_width}
    return {axis: _exactly(size) for axis, size in sizes.items()}


def _grid(record: ModelRecord, plan: SparsityPlan, scale: int) -> dict[str, _Sizes]:
    """The scale's grid, the next one's (the last scale's own again), and that of cached updates."""
    factor = 2 if record.patchify else 1
    one, following = plan.scales[scale], plan.scales[min(scale + 1, len(plan.scales) - 1)]
    sizes = {
        "L": one.tokens,
        "height": one.height,
        "width": one.width,
        "next_height": following.height,
        "next_width": following.width,
        "code_height": one.height * factor,
        "code_width": one.width * factor,
        "next_code_height": following.height * factor,
        "next_code_width": following.width * factor,
    }
    # Updates come from an earlier scale, or from the first while there are none.
    before = plan.scales[: max(scale, 1)]
    updates = {
        "U": [scale.tokens for scale in before],
        "update_height": [scale.height for scale in before],
        "update_width": [scale.width for scale in before],
    }
    return {axis: _exactly(size) for axis, size in sizes.items()} | {
        axis: (min(found), found[-1], max(found)) for axis, found in updates.items()
    }


def _cached(plan: SparsityPlan, scale: int, reached: list[int]) -> dict[str, _Sizes]:
    """Tokens that earlier scales leave in each layer's cache, over the depths that lead here."""
    sizes = {}
    for layer in range(plan.layers):
        found = [sum(plan.kept(before, depth)[layer] for before in range(scale)) for depth in reached]
        sizes[f"P{layer}"] = (min(found), max(found), max(found))
    return sizes


def output_shapes(contract: Signature, profile: EngineProfile, which: str) -> dict[str, tuple[int | None, ...]]:
    """Shapes that the outputs of a graph have in a profile.

    Args:
        contract: of the graph.
        profile: shapes of its inputs.
        which: `least`, `usual` or `most`.

    Returns:
        By output; None for a size that no input tells.
    """
    sizes: dict[str, int] = {}
    for name, axes in contract.inputs.items():
        sizes |= dict(zip(axes, getattr(profile.shapes[name], which), strict=True))
    if "next_height" in sizes:
        sizes["L'"] = sizes["next_height"] * sizes["next_width"]
    shapes = {}
    for name, axes in contract.outputs.items():
        own = dict(sizes)
        if name.startswith("new_key.") or name.startswith("new_value."):
            kept = getattr(profile.values[KEPT], which) if KEPT in profile.values else None
            own["K"] = sizes["L"] if kept is None else kept[int(name.rpartition(".")[2])]
        shapes[name] = tuple(int(axis) if axis.isdigit() else own.get(axis) for axis in axes)
    return shapes
