"""What dividing the budget jointly gains over dividing it greedily, and how far its predictions hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from toprovar.calibration.policies.toprovar_search import POLICY, predicted_error
from toprovar.calibration.sensitivity import picture_error
from toprovar.evaluation.bootstrap import bootstrap
from toprovar.evaluation.report.style import figure
from toprovar.pipeline.probing import ProbedScale
from toprovar.plan import SparsityPlan
from toprovar.runtime.backends.base import State
from toprovar.stats import CalibrationStats
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.comparison import differences
from toprovar.studies.laboratory import Laboratory, Run

__all__ = ["STUDY", "Search", "Tried", "predicted", "rows_of", "words"]

_TARGET = 0.4
_PROMPTS = 12
_VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "search": ("toprovar_search", {"guidance": "full"}),
    "layers apart": ("toprovar_search", {"guidance": "full", "layers": True}),
    "greedy": ("toprovar_search", {"guidance": "full", "layers": True, "order": "greedy"}),
    "formula": ("toprovar", {"scale": False, "guidance": "full", "restoration": POLICY.restoration}),
}
"""Alike but for how they divide the budget: full guidance, one restoration, no depth rule."""


@dataclass(frozen=True, eq=False)
class Tried:
    """One plan. Errors are mean squared differences of finished pictures over the square of their range.

    Attributes:
        name: of the variant.
        plan: the plan.
        expected: by scale, what the sensitivities foretell; 0 where nothing is left out.
        alone: [prompts, scales], the scale pruned and all others dense.
        running: [prompts, scales], what the scale adds to the error when those before it are pruned, too, and those
            after it dense.
        run: its pictures.
    """

    name: str
    plan: SparsityPlan
    expected: Sequence[float]
    alone: np.ndarray
    running: np.ndarray
    run: Run


class Search(Study):
    """Greedy against the search's."""

    title = "What the search gains, and how far it can be trusted"
    question = (
        f"At {_TARGET:.0%} of the FLOPs: is a plan that weighs scales by the picture better than one that tells layers "
        "apart, than a greedy one and than the formula? All add errors up: how far is that from what is measured?"
    )

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """Every variant within reach: predicted, measured scale by scale and in one go, and drawn."""
        prompts = laboratory.suite_prompts(limit)
        probed = laboratory.suite_prompts(min(limit or _PROMPTS, _PROMPTS))
        stats = laboratory.stats(POLICY.restoration)
        tried: list[Tried] = []
        for name, (policy, parameters) in _VARIANTS.items():
            plan = laboratory.plan_within_reach(name, laboratory.policy(policy, **parameters), _TARGET, stats)
            if plan is None:
                continue
            begin = laboratory.probe(plan.ranking, plan.restoration)
            measured = []
            for index, prompt in enumerate(probed):
                measured.append(_measured(begin(prompt.text, index), plan))
                laboratory.stages.progress(f"{name}, scale by scale", index + 1, len(probed))
            alone, running = (np.array(values) for values in zip(*measured, strict=True))
            run = laboratory.run(name, plan, prompts)
            tried.append(Tried(name, plan, predicted(stats, plan), alone, running, run))
        rows = rows_of(tried)
        return Finding(words(tried), rows, _draw(rows))


def _measured(trials: Iterable[ProbedScale], plan: SparsityPlan) -> tuple[list[float], list[float]]:
    """Errors by scale: each alone, and what it adds to what was pruned before it."""
    alone, running = [], []
    past: State | None = None
    picture: np.ndarray | None = None
    before = 0.0
    for trial in trials:
        kept = plan.kept(trial.scale)
        if past is None and plan.scales[trial.scale].is_dense:
            alone.append(0.0)
            running.append(0.0)
            continue
        if picture is None:
            picture = trial.attempt((trial.tokens,) * plan.layers).picture()
        pruned = trial.attempt(kept)
        own = pruned if past is None else trial.at(trial.scale, past).attempt(kept)
        total = picture_error(own.picture(), picture)
        alone.append(picture_error(pruned.picture(), picture))
        running.append(total - before)
        past, before = own.result.state, total
    return alone, running


def predicted(stats: CalibrationStats, plan: SparsityPlan) -> list[float]:
    """What each scale loses by the sensitivities, as if scales were independent."""
    return [
        predicted_error(scale, [kept / own.tokens for kept in own.kept])
        for scale, own in zip(stats.scales, plan.scales, strict=True)
    ]


def rows_of(tried: Sequence[Tried]) -> tuple[Row, ...]:
    """One row a plan and scale that it prunes, and one for all of them."""
    rows: list[Row] = []
    for one in tried:
        pruned = [scale for scale, own in enumerate(one.plan.scales) if not own.is_dense]
        for scale in pruned:
            own = one.plan.scales[scale]
            share = float(np.mean(own.kept)) / own.tokens
            values = one.expected[scale], one.alone[:, scale], one.running[:, scale]
            rows.append(_row(one, str(scale + 1), share, *values))
        share = one.plan.cost.ratio
        near = bootstrap(one.run.values("psnr"))
        score = bootstrap(one.run.values("passed"), one.run.categories)
        rows.append(
            {
                **_row(one, "all", None, sum(one.expected), one.alone.sum(1), one.running.sum(1)),
                "FLOPs": round(share, 4),
                "score": round(score.mean, 4),
                "PSNR to dense, dB": round(near.mean, 2),
                "PSNR from": round(near.low, 2),
                "PSNR to": round(near.high, 2),
            }
        )
    return tuple(rows)


def _row(one: Tried, scale: str, share: float | None, expected: float, alone: np.ndarray, running: np.ndarray) -> Row:
    single, compounded = bootstrap(alone.tolist()), bootstrap(running.tolist())
    return {
        "plan": one.name,
        "scale": scale,
        "kept share": None if share is None else round(share, 3),
        "predicted": _short(expected),
        "each scale alone": _short(single.mean),
        "alone: from": _short(single.low),
        "alone: to": _short(single.high),
        "in one go": _short(compounded.mean),
        "in one go: from": _short(compounded.low),
        "in one go: to": _short(compounded.high),
        "alone over predicted": _short(single.mean / expected) if expected > 0 else None,
        "in one go over predicted": _short(compounded.mean / expected) if expected > 0 else None,
        "FLOPs": None,
        "score": None,
        "PSNR to dense, dB": None,
        "PSNR from": None,
        "PSNR to": None,
        "prompts": len(alone),
    }


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def words(tried: Sequence[Tried]) -> str:
    """The gaps between the plans, then how far predictions hold."""
    named = {one.name: one for one in tried}
    base = named.get("search")
    if base is None:
        return f"No answer: {_TARGET:.0%} of the FLOPs is out of the search's reach."
    parts = []
    for name in (name for name in _VARIANTS if name != "search"):
        other = named.get(name)
        if other is None:
            parts.append(f"{name}: {_TARGET:.0%} of the FLOPs is out of its reach.")
            continue
        gap = bootstrap(differences(base.run, other.run, "psnr"))
        lost = bootstrap((other.running.sum(1) - base.running.sum(1)).tolist())
        if gap.low > 0:
            said = f"Yes, the search is better than {name}"
        else:
            said = (
                f"No, the search is worse than {name}"
                if gap.high < 0
                else f"No, the search and {name} cannot be told apart"
            )
        foreseen = sum(other.expected) / max(sum(base.expected), 1e-300) - 1
        parts.append(
            f"{said}: by {gap} dB over {len(base.run.outcomes)} prompts; {name} is predicted to lose "
            f"{abs(foreseen):.1%} {'more' if foreseen >= 0 else 'less'}, and its measured loss is {lost.mean:+.3g} "
            f"[{lost.low:+.3g}, {lost.high:+.3g}] against the search's."
        )
    ratio = float(base.alone.sum(1).mean()) / max(sum(base.expected), 1e-300)
    compound = float(base.running.sum(1).mean()) / max(float(base.alone.sum(1).mean()), 1e-300)
    parts.append(
        f"Of the search's plan, scales pruned alone lose {ratio:.2f} times what was predicted, and in one go "
        f"{compound:.2f} times what they lose alone ({len(base.alone)} prompts)."
    )
    return " ".join(parts)


def _draw(rows: Sequence[Row]) -> Figure:
    names = list(dict.fromkeys(str(row["plan"]) for row in rows))
    made, axes = figure(2.8, 1, max(len(names), 1) + 1, width_ratios=[1.3] * max(len(names), 1) + [1])
    kinds = (("predicted", "0.65"), ("each scale alone", "C0"), ("in one go", "C1"))
    single = [row for row in rows if row["scale"] != "all"]
    top = max((float(row[column] or 0) for row in single for column, _ in kinds), default=0.0)
    for axis, name in zip(axes[0], names, strict=False):
        own = [row for row in single if row["plan"] == name]
        for index, (column, colour) in enumerate(kinds):
            places = [place + 0.27 * (index - 1) for place in range(len(own))]
            axis.bar(places, [float(row[column] or 0) for row in own], 0.25, color=colour, label=column)
        axis.set_xticks(range(len(own)), [str(row["scale"]) for row in own])
        axis.set(title=name, xlabel="scale", ylim=(0, 1.05 * top or 1))
    axes[0, 0].set_ylabel("error of the picture")
    axes[0, 0].legend(fontsize=8)
    for place, row in enumerate(row for row in rows if row["scale"] == "all"):
        axes[0, -1].plot([place, place], [row["PSNR from"], row["PSNR to"]], color="C1", linewidth=1.8)
        axes[0, -1].plot(place, row["PSNR to dense, dB"], "o", color="C1")
    axes[0, -1].set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes[0, -1].set(ylabel="PSNR to dense, dB", xlim=(-0.5, max(len(names), 1) - 0.5))
    return made


STUDY = Search()
