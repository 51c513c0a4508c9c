"""How much hangs on the thresholds of the depth rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from matplotlib.figure import Figure

from toprovar.errors import UsageError
from toprovar.evaluation.report.style import DENSE, SPARSE, figure
from toprovar.plan import SparsityPlan
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.comparison import against
from toprovar.studies.laboratory import Laboratory, Run

__all__ = ["STUDY", "Tau", "row_of", "scaled", "words"]

_TARGET = 0.4
_FACTORS = (0.5, 0.71, 1.41, 2.0)
_MOVED = 0.02
NOTHING, THRESHOLDS, LOW_BELOW = "nothing", "thresholds", "low_below"


class Tau(Study):
    """Thresholds scaled, one at a time."""

    title = "How much hangs on the thresholds"
    question = (
        "The depth rule counts tokens whose standardised entropy is below `low_below`, and compares their share with "
        "thresholds that calibration fitted. Does the score move when the fitted thresholds, or `low_below`, are "
        "multiplied by 0.5 to 2, with the rest of the plan as it was?"
    )

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """The plan of the formula with its rule as fitted, and scaled."""
        prompts = laboratory.suite_prompts(limit)
        plan = laboratory.plan(laboratory.policy("toprovar"), _TARGET)
        fitted = laboratory.run("as fitted", plan, prompts)
        dense = laboratory.run_dense(prompts)
        rows = [row_of(NOTHING, 1.0, plan, fitted, fitted, dense)]
        for what in (THRESHOLDS, LOW_BELOW):
            for factor in _FACTORS:
                other = scaled(plan, what, factor)
                run = laboratory.run(f"{what} x {factor:g}", other, prompts)
                rows.append(row_of(what, factor, other, run, fitted, dense))
        return Finding(words(rows), tuple(rows), _draw(rows))


def scaled(plan: SparsityPlan, what: str, factor: float) -> SparsityPlan:
    """The plan with one part of its depth rule multiplied.

    Raises:
        UsageError: it has no rule that reads entropy.
    """
    rule = plan.depth_rule
    if rule is None or rule.low_below is None:
        raise UsageError("the plan decides no depth by entropy", "give a policy that does")
    if what == THRESHOLDS:
        changed = dataclasses.replace(rule, thresholds=tuple(value * factor for value in rule.thresholds))
    else:
        changed = dataclasses.replace(rule, low_below=rule.low_below * factor)
    return dataclasses.replace(plan, depth_rule=changed)


def row_of(what: str, factor: float, plan: SparsityPlan, run: Run, fitted: Run, dense: Run) -> Row:
    """One run against that of the fitted rule, on the same prompts and noise."""
    rule = plan.depth_rule
    return {
        "scaled": what,
        "tau": factor,
        "thresholds": " ".join(f"{value:.4g}" for value in rule.thresholds) if rule else "",
        "low_below": rule.low_below if rule else None,
        "first sparse scale": round(run.mean("depth") + 1, 2),
        **against(run, fitted, "fitted", dense),
    }


def words(rows: Sequence[Row]) -> str:
    """Whether the score moves by more than `_MOVED`."""
    changed = [row for row in rows if row["scaled"] != NOTHING]
    if not rows[0]["thresholds"]:
        return (
            "Nothing to scale: the calibration prompts do not differ in the statistic, so that the fitted rule has no "
            "threshold and every prompt the same depth."
        )
    worst = max(changed, key=lambda row: abs(float(row["score against fitted"] or 0)))
    size, count = abs(float(worst["score against fitted"] or 0)), int(worst["prompts"] or 0)
    reach = max(abs(float(row[end] or 0)) for row in changed for end in ("from", "to"))
    flops = [float(row["FLOPs"] or 0) for row in rows]
    said = "Yes, the score moves" if size > _MOVED else "No, the score hardly moves"
    answer = (
        f"{said}: by {size:.3f} at most ({worst['scaled']} times {worst['tau']}: {worst['score against fitted']} "
        f"[{worst['from']}, {worst['to']}], {count} prompts), while the FLOPs go from {min(flops):.0%} to "
        f"{max(flops):.0%} of dense."
    )
    if reach > _MOVED >= size:
        answer += f" The 95 % intervals reach {reach:.3f}: {count} prompts cannot exclude more than {_MOVED:g}."
    return answer


def _draw(rows: Sequence[Row]) -> Figure:
    made, axes = figure(2.6, 1, 3)
    panels = (
        ("score against fitted", "score against fitted", ("from", "to")),
        ("PSNR against fitted, dB", "PSNR against fitted, dB", ("PSNR from", "PSNR to")),
        ("FLOPs", "FLOPs, share of dense", None),
    )
    for axis, (column, label, ends) in zip(axes[0], panels, strict=True):
        for what, colour, shift in ((THRESHOLDS, DENSE, 0.985), (LOW_BELOW, SPARSE, 1.015)):
            own = sorted(
                (row for row in rows if row["scaled"] in (what, NOTHING)), key=lambda row: float(row["tau"] or 0)
            )
            places = [float(row["tau"] or 0) * shift for row in own]
            axis.plot(places, [row[column] for row in own], "o-", color=colour, linewidth=1.2, markersize=4, label=what)
            for place, row in zip(places, own, strict=True):
                if ends:
                    axis.plot([place, place], [row[ends[0]], row[ends[1]]], color=colour, linewidth=1.2)
        if ends:
            axis.axhline(0, color="0.5", linestyle=":")
        axis.set_xscale("log", base=2)
        axis.set_xticks([0.5, 0.71, 1, 1.41, 2], ["0.5", "0.71", "1", "1.41", "2"])
        axis.minorticks_off()
        axis.set(xlabel="times the fitted value", ylabel=label)
    for level in (-_MOVED, _MOVED):
        axes[0, 0].axhline(level, color="0.8", linewidth=0.8)
    axes[0, 2].legend(fontsize=8)
    return made


STUDY = Tau()
