"""Cost by scale: predicted FLOPs beside measured time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from toprovar.evaluation.report.examples import Examples, Timing
from toprovar.evaluation.report.material import Material
from toprovar.evaluation.report.section import Missing, Picture, Section, Table
from toprovar.evaluation.report.style import DENSE, SPARSE, figure, png
from toprovar.evaluation.report.units import flops_unit
from toprovar.plan import SparsityPlan

__all__ = ["draw_cost", "make", "overhead"]

_EXPLANATION = (
    "For each scale, what a dense image costs beside what a sparse one does: above in predicted arithmetic, below in "
    "time on this machine. Where the pairs below differ less than those above, something other than arithmetic takes "
    "the time at that scale, and pruning more tokens saves little of it."
)


def draw_cost(plan: SparsityPlan, dense: Timing | None, sparse: Timing | None) -> Figure:
    """Paired bars: FLOPs, and under them milliseconds where they were measured.

    Args:
        plan: For the prediction.
        dense: Measured times; None where nothing was measured.
        sparse: The same by the plan.
    """
    panels = 1 if dense is None or sparse is None else 2
    made, axes = figure(0.3 + 2.3 * panels, panels, 1, sharex=True)
    cost = plan.cost
    factor, unit = flops_unit(max(cost.per_scale_dense))
    _pairs(axes[0, 0], [one / factor for one in cost.per_scale_dense], [one / factor for one in cost.per_scale_sparse])
    axes[0, 0].set_ylabel(f"predicted, {unit}")
    axes[0, 0].legend(["dense", "sparse"], loc="upper left")
    if dense is not None and sparse is not None:
        _pairs(axes[1, 0], [1e3 * one for one in dense.scales], [1e3 * one for one in sparse.scales])
        axes[1, 0].set_ylabel("measured, ms")
    last = axes[-1, 0]
    last.set_xticks(range(len(plan.scales)), [f"{i}\n{s.height} x {s.width}" for i, s in enumerate(plan.scales)])
    last.set_xlabel("scale, with its grid of tokens")
    return made


def _pairs(axes: Axes, dense: Sequence[float], sparse: Sequence[float]) -> None:
    places = np.arange(len(dense))
    axes.bar(places - 0.2, dense, 0.38, color=DENSE)
    axes.bar(places + 0.2, sparse, 0.38, color=SPARSE)
    axes.grid(axis="y")
    axes.tick_params(length=0)


def overhead(examples: Examples) -> Table:
    """Where the time of an image goes."""
    modes = examples.dense, examples.sparse

    def row(name: str, seconds: Sequence[float]) -> tuple[str, ...]:
        cells = ((f"{1e3 * one:,.1f}", f"{one / mode.total:.1%}") for one, mode in zip(seconds, modes, strict=True))
        return name, *(cell for pair in cells for cell in pair)

    return Table(
        ("part of an image", "dense, ms", "dense, share", "sparse, ms", "sparse, share"),
        (
            row("text encoder, prompt and decoder", [mode.rest for mode in modes]),
            row("all scales", [sum(mode.scales) for mode in modes]),
            row("of these: the depth rule's analysis on the host", [mode.analysis for mode in modes]),
            row("whole image", [mode.total for mode in modes]),
        ),
        f"Overhead: where the time goes. Source: {examples.source}; medians do not add up exactly.",
    )


def make(material: Material) -> Section:
    """The section."""
    examples, plan = material.examples, material.plan
    title = "Cost by scale"
    caption = "Transformer FLOPs of one image with guidance, sparse from the earliest depth on"
    source = "plan.json: cost.per_scale_dense, cost.per_scale_sparse"
    if isinstance(examples, Missing):
        picture = Picture("cost", png(draw_cost(plan, None, None)), f"{caption}.", source)
        return Section("cost", title, _EXPLANATION, (picture,), notes=(f"Times: {examples.line}",))
    depths = ", ".join(str(example.sparse.depth) for example in examples.shown)
    picture = Picture(
        "cost",
        png(draw_cost(plan, examples.dense, examples.sparse)),
        f"{caption}; milliseconds are medians over prompts that run sparse from scale {depths} on "
        f"({len(plan.scales)} would be never).",
        f"{source}; {examples.source}",
    )
    return Section("cost", title, _EXPLANATION, (picture,), (overhead(examples),))
