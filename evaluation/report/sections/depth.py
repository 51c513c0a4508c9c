"""The depth rule over the calibration prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toprovar.evaluation.report.depths import statistic_values
from toprovar.evaluation.report.material import CALIBRATION, Material
from toprovar.evaluation.report.section import Missing, Picture, Section
from toprovar.evaluation.report.style import DENSE, FAINT, INK, figure, png
from toprovar.plan import DepthRule
from toprovar.reports import depth_words

__all__ = ["draw_depths", "make"]

_TITLE = "Depth over the calibration prompts"
_EXPLANATION = (
    "Each prompt is given a depth, the first scale that runs sparse, by a statistic of an earlier scale; the dashed "
    "lines are the thresholds between depths. Prompts on both sides of a threshold mean that the rule tells "
    "prompts apart; a threshold in the thick of the prompts means that small changes move many of them."
)
_BINS = 20


def draw_depths(values: Sequence[float], rule: DepthRule, scales: int) -> Figure:
    """The statistic's histogram beside the number of prompts at each depth.

    Args:
        values: The statistic of each prompt, one at least.
        rule: The plan's rule.
        scales: Scales of the schedule; a depth of as many means dense.
    """
    made, axes = figure(2.9, 1, 2, width_ratios=(3, 2))
    histogram, bars = axes[0]
    low, high = min([*values, *rule.thresholds]), max([*values, *rule.thresholds])
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    edges = np.linspace(max(low - margin, 0), high + margin, _BINS + 1)
    histogram.hist(values, edges, color=DENSE, edgecolor="white", linewidth=0.6)
    for threshold in rule.thresholds:
        histogram.axvline(threshold, color=INK, linestyle="--", linewidth=1)
    histogram.set_title("statistic of each prompt, thresholds dashed")
    histogram.set_xlabel(f"{rule.statistic.replace('_', ' ')} r at scale {rule.decided_after}")
    counted = Counter(rule.depth(value) for value in values)
    depths = sorted(set(rule.depths))
    names = ["never" if depth == scales else f"scale {depth}" for depth in depths]
    drawn = bars.bar(names, [counted[depth] for depth in depths], color=DENSE, width=0.6)
    bars.bar_label(drawn, color=FAINT, padding=2)
    bars.set_title("prompts at each depth")
    bars.set_xlabel("sparse from")
    for axis in (histogram, bars):
        axis.set_ylabel("prompts")
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axis.margins(y=0.15)
    return made


def make(material: Material) -> Section:
    """The section."""
    stats, rule, scales = material.stats, material.plan.depth_rule, len(material.plan.scales)
    if rule is None:
        return Section("depth", _TITLE, _EXPLANATION, notes=("The plan has no depth rule: all prompts run alike.",))
    words = tuple(line.strip() for line in depth_words(rule, scales))
    values = statistic_values(stats, rule)
    if isinstance(values, Missing):
        return Section("depth", _TITLE, _EXPLANATION, notes=(values.line, *words))
    picture = Picture(
        "depth",
        png(draw_depths(values, rule, scales)),
        f"{len(values)} calibration prompts; {'; '.join(words)}.",
        f"{CALIBRATION}: prompts.{rule.statistic}; plan.json: depth_rule",
    )
    return Section("depth", _TITLE, _EXPLANATION, (picture,))
