"""Whether low attention entropy tells which tokens are missed most, and whether another statistic tells it better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from toprovar.calibration.policies.toprovar import POLICY
from toprovar.calibration.ranking import entropy_ranking
from toprovar.evaluation.bootstrap import Interval
from toprovar.evaluation.report.style import figure
from toprovar.models.selectors.structure_texture import texture
from toprovar.pipeline.probing import ProbedScale
from toprovar.plan import Ranking
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.group_damage import CHANCE, GroupDamage, interval_of, measured, pruning_of, table
from toprovar.studies.laboratory import Laboratory

__all__ = ["STUDY", "Damage", "rankings_of", "words"]

BEFORE, OWN = "entropy of the scale before", "entropy of the scale itself"
_CHANGE = "change in the middle layers (SparseVAR)"
_DEVIATION = "distance from the mean token (FastVAR)"
_HIGH_PASS = "local high-pass (part of StepVAR)"
_LATE = 4
"""Scales that are looked at, from the last."""
_PROMPTS = 12
_WEAK = 0.3
_PICTURE = "picture error of half at once, over chance"


class Damage(Study):
    """Damage by rank."""

    title = "Does low entropy predict damage?"
    question = (
        "Entropy ranks the tokens: those of high entropy are pruned first. Are they missed least, and is there a "
        "statistic that tells it better?"
    )

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """Every group of every ranking on some prompts of the suite."""
        prompts = laboratory.suite_prompts(min(limit or _PROMPTS, _PROMPTS))
        seen: list[list[GroupDamage]] = []
        for index, prompt in enumerate(prompts):
            seen.append(list(_of_prompt(laboratory, prompt.text, index)))
            laboratory.stages.progress("damage", index + 1, len(prompts))
        rows = table(seen)
        return Finding(words(seen), rows, draw(seen, rows))


def _of_prompt(laboratory: Laboratory, text: str, seed: int) -> Iterator[GroupDamage]:
    by_entropy = laboratory.probe(entropy_ranking(laboratory.stats()), POLICY.restoration)(text, seed)
    by_change = laboratory.probe(Ranking("chunk_change"), POLICY.restoration)(text, seed)
    first = max(len(laboratory.subject.grids) - _LATE, 1)
    for trial, other in zip(by_entropy, by_change, strict=True):
        if trial.scale >= first:
            dense = trial.attempt((trial.tokens,) * trial.backend.model.layers)
            entropy = dense.result.entropy
            if entropy is None:
                raise ValueError("expected a scale that was observed")
            rankings = rankings_of(trial) | {OWN: entropy[0], _CHANGE: other.state.prior[0]}
            yield measured(pruning_of(trial, dense), trial.scale, rankings, seed)


def rankings_of(trial: ProbedScale) -> dict[str, np.ndarray]:
    """What may be known before a scale's first layer: values [tokens] by name, lowest for the most important."""
    rows = torch.as_tensor(trial.backend.to_host_impl(trial.state.tensors["x"]))[:1]
    height, _ = trial.backend.grids[trial.scale]
    away = (rows - rows.mean(1, keepdim=True)).square().sum(2)
    return {
        BEFORE: trial.state.prior[0],
        _DEVIATION: -away[0].numpy(),
        _HIGH_PASS: -texture(rows, height)[0].numpy(),
    }


def words(prompts: Sequence[Sequence[GroupDamage]]) -> str:
    """The answer: of the entropy that a deployment has in time, of the best ranking and of chance."""
    names = [name for name in prompts[0][0].own if name != CHANCE]
    means = {name: interval_of(prompts, "own", name) for name in names}
    before, half = means[BEFORE], interval_of(prompts, "half", BEFORE)
    pictures = interval_of(prompts, "picture", BEFORE)
    if before.low > 0:
        said = "Yes" if before.mean >= _WEAK else "Yes, but weakly"
    else:
        said = "No, the contrary" if before.high < 0 else "No, not beyond chance"
    best = max(names, key=lambda name: means[name].mean)
    answer = (
        f"{said}: the Spearman correlation of a group's rank by the {BEFORE} with its damage is {before} over "
        f"{len(prompts[0])} scales and {len(prompts)} prompts (chance: {interval_of(prompts, 'own', CHANCE)}; over "
        f"single tokens {interval_of(prompts, 'single', BEFORE)}; damage to all tokens "
        f"{interval_of(prompts, 'every', BEFORE)}). Leaving out the half that it prunes first, all at once, does "
        f"{half} times the damage of a half by chance (restoration: {POLICY.restoration}). The finished picture, "
        f"whose later scales mend what they can, errs {pictures} times as much as with a half by chance"
        f"{_seen(pictures)}."
    )
    if best == BEFORE:
        return f"{answer} No other statistic predicts better."
    gain = interval_of(prompts, "own", best, BEFORE)
    sure = "" if gain.low > 0 else ", which may be chance"
    return (
        f"{answer} Best predicts {best}: {means[best]}, by {gain} more{sure}; the half that it prunes first does "
        f"{interval_of(prompts, 'half', best)} times the damage of chance, and the picture errs "
        f"{interval_of(prompts, 'picture', best)} times as much."
    )


def _seen(pictures: Interval) -> str:
    if pictures.high < 1:
        return ": what this ranking prunes first is missed least where it can be seen"
    return ": it is missed more than chance's" if pictures.low > 1 else ", which may be chance"


def draw(prompts: Sequence[Sequence[GroupDamage]], rows: Sequence[Row]) -> Figure:
    """Damage over rank by scale, and the correlations with their intervals."""
    names = list(prompts[0][0].own)
    scales = [one.scale for one in prompts[0]]
    bars = 0.22 * len(names) + 0.4
    made, axes = figure(3.4 + 0.44 * len(names), 3, len(scales), height_ratios=[2.2, bars, bars])
    for place, scale in enumerate(scales):
        above, below, seen = axes[0, place], axes[1, place], axes[2, place]
        for index, name in enumerate(names):
            colour = "0.6" if name == CHANCE else f"C{index}"
            curves = np.array([own[place].own[name] / max(own[place].own[name].mean(), 1e-30) for own in prompts])
            middle = (np.arange(curves.shape[1]) + 0.5) / curves.shape[1]
            above.plot(middle, curves.mean(0), color=colour, linewidth=1.3, label=name)
            (row,) = (one for one in rows if one["ranking"] == name and one["scale"] == str(scale + 1))
            low, high = (float(row[f"Spearman, pruned tokens: {end}"] or 0) for end in ("from", "to"))
            below.plot([low, high], [index, index], color=colour, linewidth=1.8)
            below.plot(float(row["Spearman, pruned tokens"] or 0), index, "o", color=colour, markersize=4)
            low, high = (float(row[f"{_PICTURE}: {end}"] or 0) for end in ("from", "to"))
            seen.plot([low, high], [index, index], color=colour, linewidth=1.8)
            seen.plot(float(row[_PICTURE] or 0), index, "o", color=colour, markersize=4)
        above.axhline(1, color="0.8", linewidth=0.8, zorder=0)
        above.set(title=f"scale {scale + 1}", xlim=(0, 1))
        above.set_xticks([0.05, 0.95], ["kept longest", "pruned first"])
        above.sharey(axes[0, 0])
        below.axvline(0, color="0.5", linestyle=":")
        below.set(xlabel="Spearman with damage", xlim=(-1.05, 1.05), ylim=(len(names) - 0.5, -0.5))
        seen.axvline(1, color="0.5", linestyle=":")
        seen.set(xlabel="picture error, chance = 1", ylim=(len(names) - 0.5, -0.5))
        for axis in (below, seen):
            axis.set_yticks(range(len(names)), names if place == 0 else [""] * len(names))
    axes[0, 0].set_ylabel("damage to the pruned tokens,\nmean of the scale = 1")
    return made


STUDY = Damage()
