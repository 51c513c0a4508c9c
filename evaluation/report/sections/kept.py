"""Which tokens were computed, by scale and layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from toprovar.evaluation.report.examples import Example
from toprovar.evaluation.report.material import Material
from toprovar.evaluation.report.overlay import add_colour_bar, overlay, picture_rows, show
from toprovar.evaluation.report.prompt_list import prompt_list
from toprovar.evaluation.report.section import Missing, Picture, Section
from toprovar.evaluation.report.style import SHARES, png
from toprovar.plan import SparsityPlan

__all__ = ["HOST_SORTED", "computed", "draw_layers", "draw_shares", "make"]

HOST_SORTED = ("none", "previous_scale")
"""Selectors whose order is the host's and stays so; what sorts again within the graph cannot be seen from here."""

_TITLE = "Kept tokens"
_EXPLANATION = (
    "Which tokens each layer computed at the scales that are pruned: bright tokens were computed by all layers, dark "
    "ones by few. Compare with the images: the bright part should hold the objects and their edges, the dark part the "
    "plain background."
)
_MOST_SCALES = 5
_MOST_LAYERS = 8


def computed(example: Example, plan: SparsityPlan, scale: int) -> np.ndarray:
    """What each layer computed at a scale of the sparse run, bool [layers, height, width].

    The tokens are sorted by their priors, lowest first, and each layer takes the first of them
    (`toprovar.runtime.backends.base.Backend.step_inputs`).
    """
    grid = plan.scales[scale]
    rank = np.empty(grid.tokens, np.int64)
    rank[np.argsort(example.priors[scale], kind="stable")] = np.arange(grid.tokens)
    kept = np.asarray(plan.kept(scale, example.sparse.depth))
    return (rank[None, :] < kept[:, None]).reshape(-1, grid.height, grid.width)


def _pruned_scales(plan: SparsityPlan) -> list[int]:
    return [index for index, scale in enumerate(plan.scales) if not scale.is_dense][-_MOST_SCALES:]


def _sparse_scales(example: Example, plan: SparsityPlan) -> list[int]:
    return [scale for scale in _pruned_scales(plan) if scale >= example.sparse.depth]


def draw_shares(examples: Sequence[Example], plan: SparsityPlan) -> Figure:
    """One row a prompt: the sparse image, then by pruned scale the share of layers that computed a token.

    Args:
        examples: One at least.
        plan: One that prunes.
    """
    scales = _pruned_scales(plan)
    norm = Normalize(0, 1)
    figure, axes = picture_rows(len(examples), 1 + len(scales), examples[0].sparse.image)
    for row, example in enumerate(examples):
        show(axes[row, 0], example.sparse.image, "sparse image" if row == 0 else "", f"prompt {row + 1}")
        for column, scale in enumerate(scales, start=1):
            shares = computed(example, plan, scale).mean(0)
            grid = plan.scales[scale]
            name = f"scale {scale}, {grid.height} x {grid.width}\n"
            title = f"{name if row == 0 else ''}{shares.mean():.0%} computed"
            show(axes[row, column], overlay(example.sparse.image, shares, SHARES, norm), title)
    add_colour_bar(figure, axes, SHARES, norm, "share of layers that computed a token")
    return figure


def draw_layers(example: Example, plan: SparsityPlan) -> Figure:
    """One prompt: a row for each pruned scale, a column for each of some layers.

    Args:
        example: What was drawn; a scale of it ran sparse.
        plan: One that prunes.
    """
    scales = _sparse_scales(example, plan)
    layers = sorted(set(np.linspace(0, plan.layers - 1, _MOST_LAYERS).round().astype(int).tolist()))
    figure, axes = picture_rows(len(scales), max(len(layers), 6), example.sparse.image, bar=False)
    for row, scale in enumerate(scales):
        masks = computed(example, plan, scale)
        for column, layer in enumerate(layers):
            mask = masks[layer]
            title = f"{f'layer {layer}: ' if row == 0 else ''}{mask.mean():.0%}"
            picture = overlay(example.sparse.image, mask.astype(np.float64), SHARES, Normalize(0, 1))
            show(axes[row, column], picture, title, f"scale {scale}" if column == 0 else "")
    return figure


def make(material: Material) -> Section:
    """The section."""
    examples, plan = material.examples, material.plan
    lines = [examples.line] if isinstance(examples, Missing) else []
    if not lines and plan.ranking.selector not in HOST_SORTED:
        lines.append(
            f"Not available: the selector {plan.ranking.selector} sorts the tokens within the graph, and the order "
            "never leaves it."
        )
    if not lines and not _pruned_scales(plan):
        lines.append("Nothing to show: every layer computes every token.")
    if lines or isinstance(examples, Missing):
        return Section("kept", _TITLE, _EXPLANATION, notes=tuple(lines))
    source = "priors recorded in the sparse runs of this report; kept counts of plan.json at each prompt's depth"
    shares = Picture(
        "kept_shares",
        png(draw_shares(examples.shown, plan)),
        f"Share of the {plan.layers} layers that computed each token, over the sparse images. Above each map: the mean "
        f"over tokens and layers; before a prompt's depth it is 100%. {prompt_list(examples.shown)}",
        source,
    )
    earliest = min(examples.shown, key=lambda example: example.sparse.depth)
    if not _sparse_scales(earliest, plan):
        return Section("kept", _TITLE, _EXPLANATION, (shares,))
    number = examples.shown.index(earliest) + 1
    layers = Picture(
        "kept_layers",
        png(draw_layers(earliest, plan)),
        f"Prompt {number}, {'some' if plan.layers > _MOST_LAYERS else 'all'} layers one by one: bright tokens were "
        f"computed, dark ones left to the restoration ({plan.restoration}). Above each mask: the share computed.",
        source,
    )
    return Section("kept", _TITLE, _EXPLANATION, (shares, layers))
