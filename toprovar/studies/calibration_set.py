"""How much a plan depends on what it was calibrated with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from toprovar.evaluation.report.style import DENSE, SPARSE, figure
from toprovar.extensions import SUITES
from toprovar.plan import SparsityPlan
from toprovar.pruning import Restoration
from toprovar.stats import CalibrationStats
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.comparison import against
from toprovar.studies.correlation import spearman
from toprovar.studies.laboratory import Laboratory, Run

__all__ = ["STUDY", "CalibrationSet", "kept_moves", "parted", "ratio_agreement", "sensitivity_agreement", "words"]

_POLICIES = ("toprovar", "toprovar_search")
_TARGET = 0.4
_OTHER_SEED = 1000
_TENTH = 10
WHOLE = "all prompts"
_SAME = 0.02
"""A score that moves by less counts as the same, as in the study of thresholds."""


@dataclass(frozen=True)
class _Variant:
    name: str
    prompts: int
    stats: CalibrationStats
    sensitive: bool
    """Sensitivities were measured anew."""


@dataclass(frozen=True)
class _Planned:
    variant: _Variant
    plan: SparsityPlan
    run: Run


class CalibrationSet(Study):
    """Other seeds, other prompts, fewer prompts."""

    title = "How much hangs on the calibration set"
    question = (
        "Does a plan change when it is calibrated with other noise, with prompts of half the categories, or with a "
        f"tenth of the prompts; and do pictures at {_TARGET:.0%} of the FLOPs?"
    )

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """Every variant of the calibration by every policy."""
        prompts = laboratory.suite_prompts(limit)
        dense = laboratory.run_dense(prompts)
        rows: list[Row] = []
        for name in _POLICIES:
            policy = laboratory.policy(name)
            whole: _Planned | None = None
            for variant in _variants(laboratory, policy.probes):
                plan = laboratory.plan_within_reach(f"{name}, {variant.name}", policy, _TARGET, variant.stats)
                if plan is None:
                    continue
                made = _Planned(variant, plan, laboratory.run(f"{name}: {variant.name}", plan, prompts))
                # The first is the calibration as it is; where it has no plan there is nothing to compare with.
                whole = whole or (made if variant.name == WHOLE else None)
                if whole is not None:
                    rows.append(_row(name, made, whole, dense))
        return Finding(words(rows), tuple(rows), _draw(rows))


def _variants(laboratory: Laboratory, probes: Restoration | None) -> Iterator[_Variant]:
    texts = laboratory.calibration_prompts
    whole = laboratory.stats(probes)
    yield _Variant(WHOLE, len(texts), whole, True)
    yield _Variant("another seed", len(texts), laboratory.stats(probes, seed=laboratory.seed + _OTHER_SEED), True)
    for index, (named, half) in enumerate(parted(laboratory.suite, texts)):
        yield _Variant(f"{'ab'[index]}: {named}", len(half), laboratory.stats(probes, prompts=half), True)
    table = dataclasses.replace(laboratory.table(), stats=whole)
    count = max(len(texts) // _TENTH, 1)
    few = [index * len(texts) // count for index in range(count)]
    yield _Variant("a tenth of the prompts", count, table.subset(few), False)


def parted(suite: str, texts: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Two halves of the prompts, each of other categories, where the suite knows them; else by their order."""
    known = {prompt.text: prompt.requirements.category for prompt in SUITES.load(suite).calibration_prompts()}
    categories = sorted({known[text] for text in texts if text in known})
    if len(categories) < 2 or any(text not in known for text in texts):
        half = len(texts) // 2
        halves = ("first half", tuple(texts[:half])), ("second half", tuple(texts[half:]))
    else:
        first = set(categories[::2])
        halves = (
            ("half of the categories", tuple(text for text in texts if known[text] in first)),
            ("the other categories", tuple(text for text in texts if known[text] not in first)),
        )
    return [(name, half) for name, half in halves if half]


def kept_moves(plan: SparsityPlan, other: SparsityPlan) -> float:
    """Mean absolute difference of kept shares over layers of the scales that either prunes."""
    shares = [np.array([np.array(scale.kept) / scale.tokens for scale in one.scales]) for one in (plan, other)]
    pruned = [not (a.is_dense and b.is_dense) for a, b in zip(plan.scales, other.scales, strict=True)]
    return float(np.abs(shares[0] - shares[1])[pruned].mean()) if any(pruned) else 0.0


def ratio_agreement(stats: CalibrationStats, other: CalibrationStats) -> float:
    """Spearman of R over scales and layers; the first scale's single token leaves nothing to explain."""
    first, second = (
        [layer.principal_component_ratio for scale in one.scales[1:] for layer in scale.layers]
        for one in (stats, other)
    )
    return spearman(first, second)


def sensitivity_agreement(stats: CalibrationStats, other: CalibrationStats) -> float | None:
    """Spearman of the divergences over scales, layers and shares that both measured; None without any."""
    pairs = [
        (one.kl, two.kl)
        for first, second in zip(stats.scales, other.scales, strict=True)
        for layer, match in zip(first.layers, second.layers, strict=True)
        for one, two in zip(layer.sensitivity, match.sensitivity, strict=False)
    ]
    return spearman(*zip(*pairs, strict=True)) if pairs else None


def _row(policy: str, made: _Planned, whole: _Planned, dense: Run) -> Row:
    run, base = made.run, whole.run
    agreement = sensitivity_agreement(made.variant.stats, whole.variant.stats) if made.variant.sensitive else None
    rule = made.plan.depth_rule
    depths = zip(run.values("depth"), base.values("depth"), strict=True)
    return {
        "plan": policy,
        "calibrated with": made.variant.name,
        "calibration prompts": made.variant.prompts,
        "kept shares move": round(kept_moves(made.plan, whole.plan), 4),
        "Spearman of R": round(ratio_agreement(made.variant.stats, whole.variant.stats), 3),
        "Spearman of sensitivity": None if agreement is None else round(agreement, 3),
        "thresholds": " ".join(f"{value:.4g}" for value in rule.thresholds) if rule else "",
        "other depth": round(float(np.mean([own != other for own, other in depths])), 3),
        "predicted FLOPs": round(float(made.plan.parameters["expected_flops"]), 4),
        **against(run, base, "all", dense),
    }


def words(rows: Sequence[Row]) -> str:
    """What moves, by policy."""
    parts = []
    for name in _POLICIES:
        own = [row for row in rows if row["plan"] == name and row["calibrated with"] != WHOLE]
        if not own:
            parts.append(f"{name}: no answer, as {_TARGET:.0%} of the FLOPs is out of reach.")
            continue
        score = max(own, key=lambda row: abs(float(row["score against all"] or 0)))
        size = abs(float(score["score against all"] or 0))
        sensitivities = [
            float(row["Spearman of sensitivity"]) for row in own if row["Spearman of sensitivity"] is not None
        ]
        agreed = f", of sensitivities {min(sensitivities):.2f}" if sensitivities else ""
        flops = [float(row["FLOPs"] or 0) for row in rows if row["plan"] == name]
        said = "the score does not depend on it" if size <= _SAME else "the score depends on it"
        reach = max(abs(float(row[end] or 0)) for row in own for end in ("from", "to"))
        if reach > _SAME >= size:
            said += f", as far as intervals that reach {reach:.3f} can tell"
        parts.append(
            f"{name}: {said}; it moves by {size:.3f} at most ({score['calibrated with']}: "
            f"{score['score against all']} [{score['from']}, {score['to']}], {score['prompts']} prompts), PSNR by "
            f"{max(abs(float(row['PSNR against all, dB'] or 0)) for row in own):.2f} dB. Kept shares move by "
            f"{max(float(row['kept shares move'] or 0) for row in own):.3f} on average at most, up to "
            f"{max(float(row['other depth'] or 0) for row in own):.0%} of the images get another depth, FLOPs lie "
            f"between {min(flops):.1%} and {max(flops):.1%}; Spearman of R is at least "
            f"{min(float(row['Spearman of R'] or 0) for row in own):.2f}{agreed}."
        )
    return " ".join(parts)


def _draw(rows: Sequence[Row]) -> Figure:
    names = list(dict.fromkeys(str(row["calibrated with"]) for row in rows))
    made, axes = figure(0.42 * len(names) + 1.1, 1, 4, sharey=True)
    panels = (
        ("kept shares move", None),
        ("FLOPs", None),
        ("score against all", ("from", "to")),
        ("PSNR against all, dB", ("PSNR from", "PSNR to")),
    )
    for axis, (column, ends) in zip(axes[0], panels, strict=True):
        for policy, colour, shift in zip(_POLICIES, (DENSE, SPARSE), (-0.12, 0.12), strict=True):
            for row in (one for one in rows if one["plan"] == policy):
                place = names.index(str(row["calibrated with"])) + shift
                if ends:
                    axis.plot([row[ends[0]], row[ends[1]]], [place, place], color=colour, linewidth=1.5)
                axis.plot(row[column], place, "o", color=colour, markersize=4)
            axis.plot([], [], "o", color=colour, label=policy)
        if ends:
            axis.axvline(0, color="0.5", linestyle=":")
        axis.set(xlabel=column)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, fontsize=8)
    return made


STUDY = CalibrationSet()
