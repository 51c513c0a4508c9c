"""Where attention is focused: entropy over the image."""

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
from toprovar.evaluation.report.style import SIGNED, png
from toprovar.plan import SparsityPlan

__all__ = ["draw_entropy", "late_scales", "make", "span"]

_TITLE = "Entropy over the image"
_EXPLANATION = (
    "For each token of a late scale, how widely it attends: orange is focused (low entropy), violet is diffuse (high "
    "entropy), white is the calibration's mean. Tokens of low entropy carry the objects and are kept; where the map "
    "follows the objects, the ranking sees what matters."
)
_MOST = 5
_RANGES = (0.5, 1.0, 2.0, 3.0)
"""Deviations that the colours may span, so that maps of quiet and of lively models can be read."""


def late_scales(plan: SparsityPlan, most: int = _MOST) -> tuple[int, ...]:
    """The last scales that have more than one token, coarse to fine."""
    several = [index for index, scale in enumerate(plan.scales) if scale.tokens > 1]
    return tuple(several[-most:])


def span(examples: Sequence[Example], plan: SparsityPlan) -> float:
    """Deviations that hold nineteen tokens of twenty, of a few round numbers."""
    values = np.abs(np.concatenate([one.entropy[scale].ravel() for one in examples for scale in late_scales(plan)]))
    needed = float(np.quantile(values, 0.95))
    return next((one for one in _RANGES if one >= needed), _RANGES[-1])


def draw_entropy(examples: Sequence[Example], plan: SparsityPlan) -> Figure:
    """One row a prompt: the dense image, then the map of each late scale over it.

    Args:
        examples: One at least, all with entropy.
        plan: For the grids; a scale of several tokens at least.
    """
    scales = late_scales(plan)
    limit = span(examples, plan)
    norm = Normalize(-limit, limit)
    figure, axes = picture_rows(len(examples), 1 + len(scales), examples[0].dense.image, titled=False)
    for row, example in enumerate(examples):
        show(axes[row, 0], example.dense.image, "dense image" if row == 0 else "", f"prompt {row + 1}")
        for column, scale in enumerate(scales, start=1):
            grid = plan.scales[scale]
            values = example.entropy[scale].reshape(grid.height, grid.width)
            title = f"scale {scale}, {grid.height} x {grid.width}" if row == 0 else ""
            show(axes[row, column], overlay(example.dense.image, values, SIGNED, norm), title)
    add_colour_bar(figure, axes, SIGNED, norm, "standardised entropy, deviations")
    return figure


def make(material: Material) -> Section:
    """The section."""
    examples, plan = material.examples, material.plan
    if isinstance(examples, Missing):
        return Section("entropy", _TITLE, _EXPLANATION, notes=(examples.line,))
    if not plan.ranking.observers:
        line = f"Not shown: the plan of the policy {plan.policy} observes no layer, so that no entropy is computed."
        return Section("entropy", _TITLE, _EXPLANATION, notes=(line,))
    layers = ", ".join(map(str, plan.ranking.observers))
    caption = (
        f"Attention entropy of the last {len(late_scales(plan))} scales over the dense images, in standard deviations "
        f"from the calibration's mean, averaged over heads and the observer layers ({layers}); beyond "
        f"±{span(examples.shown, plan):g} the colour stays the same. {prompt_list(examples.shown)}"
    )
    picture = Picture(
        "entropy",
        png(draw_entropy(examples.shown, plan)),
        caption,
        "observed by this report in a dense run of each prompt; moments of plan.json",
    )
    return Section("entropy", _TITLE, _EXPLANATION, (picture,))
