"""What standardising entropy over heads and layers is worth: for the ranking, and for the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from toprovar.calibration.policies.toprovar import POLICY
from toprovar.calibration.ranking import entropy_ranking
from toprovar.evaluation.bootstrap import Interval, bootstrap
from toprovar.evaluation.report.style import DENSE, SPARSE, figure
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.group_damage import CHANCE, GroupDamage, interval_of, measured, pruning_of, table
from toprovar.studies.laboratory import Laboratory, Run
from toprovar.studies.pareto import compared

__all__ = ["STUDY", "Normalisation", "words"]

STANDARDISED, PLAIN = "standardised", "as it is"
_LATE, _PROMPTS, _TARGET = 4, 12, 0.4


class Normalisation(Study):
    """Entropy with and without standardisation."""

    title = "Is standardised entropy better?"
    question = (
        "Heads differ in logit temperature. Does entropy rank better once every head and layer is standardised, and "
        f"are pictures at {_TARGET:.0%} of the FLOPs nearer to dense?"
    )

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """Damage by both rankings, and a plan of each without depth rule, which is made for standardised entropy."""
        prompts = laboratory.suite_prompts(limit)
        probed = laboratory.suite_prompts(min(limit or _PROMPTS, _PROMPTS))
        seen: list[list[GroupDamage]] = []
        for index, prompt in enumerate(probed):
            seen.append(list(_of_prompt(laboratory, prompt.text, index)))
            laboratory.stages.progress("damage", index + 1, len(probed))
        runs: dict[str, Run] = {}
        for name, standardised in ((STANDARDISED, True), (PLAIN, False)):
            policy = laboratory.policy("toprovar", standardised=standardised, scale=False)
            plan = laboratory.plan_within_reach(name, policy, _TARGET)
            if plan is not None:
                runs[name] = laboratory.run(name, plan, prompts)
        dense = laboratory.run_dense(prompts)
        rows = [_row(row, runs, dense) for row in table(seen)]
        return Finding(words(seen, runs), tuple(rows), _draw(rows))


def _of_prompt(laboratory: Laboratory, text: str, seed: int) -> Iterator[GroupDamage]:
    stats = laboratory.stats()
    first = max(len(laboratory.subject.grids) - _LATE, 1)
    trials, others = (
        laboratory.probe(entropy_ranking(stats, standardised=standardised), POLICY.restoration)(text, seed)
        for standardised in (True, False)
    )
    for trial, other in zip(trials, others, strict=True):
        if trial.scale >= first:
            dense = trial.attempt((trial.tokens,) * trial.backend.model.layers)
            rankings = {STANDARDISED: trial.state.prior[0], PLAIN: other.state.prior[0]}
            yield measured(pruning_of(trial, dense), trial.scale, rankings, seed)


def _row(row: Row, runs: dict[str, Run], dense: Run) -> Row:
    run = runs.get(str(row["ranking"])) if row["scale"] == "all" else None
    picture = compared(run, dense, _TARGET) if run else {}
    columns = ("FLOPs", "score", "PSNR to dense, dB", "PSNR from", "PSNR to")
    return {**row, **{column: picture.get(column) for column in columns}}


def words(prompts: Sequence[Sequence[GroupDamage]], runs: dict[str, Run]) -> str:
    """The answer, by ranking and by picture."""
    gain = interval_of(prompts, "own", STANDARDISED, PLAIN)
    ranked = (
        f"{_verdict(gain)} for the ranking: the Spearman correlation with damage is "
        f"{interval_of(prompts, 'own', STANDARDISED)} standardised and {interval_of(prompts, 'own', PLAIN)} without, "
        f"a difference of {gain} over {len(prompts[0])} scales and {len(prompts)} prompts; without the half that is "
        f"pruned first the finished picture errs {interval_of(prompts, 'picture', STANDARDISED)} and "
        f"{interval_of(prompts, 'picture', PLAIN)} times as much as without one by chance."
    )
    if len(runs) < 2:
        return f"{ranked} No pictures: the plan is out of reach."
    first, second = runs[STANDARDISED].values("psnr"), runs[PLAIN].values("psnr")
    nearer = bootstrap(list(np.subtract(first, second)))
    return (
        f"{ranked} {_verdict(nearer)} for the pictures at {_TARGET:.0%} of the FLOPs: standardised is {nearer} dB "
        f"nearer to dense over {len(first)} prompts."
    )


def _verdict(gain: Interval) -> str:
    if gain.low > 0:
        return "Yes"
    return "No, it is worse" if gain.high < 0 else "No difference that can be told from chance"


def _draw(rows: Sequence[Row]) -> Figure:
    made, axes = figure(2.6, 1, 2, width_ratios=[3, 1.4])
    scales = list(dict.fromkeys(row["scale"] for row in rows))
    for index, (name, colour) in enumerate(((STANDARDISED, DENSE), (PLAIN, SPARSE), (CHANCE, "0.6"))):
        for row in (one for one in rows if one["ranking"] == name):
            place = scales.index(row["scale"]) + 0.16 * (index - 1)
            low, high = (float(row[f"Spearman, pruned tokens: {end}"] or 0) for end in ("from", "to"))
            label = name if row["scale"] == scales[0] else None
            axes[0, 0].plot([place, place], [low, high], color=colour, linewidth=1.8)
            axes[0, 0].plot(place, float(row["Spearman, pruned tokens"] or 0), "o", color=colour, label=label)
            if row["PSNR to dense, dB"] is not None:
                axes[0, 1].plot([index, index], [row["PSNR from"], row["PSNR to"]], color=colour, linewidth=1.8)
                axes[0, 1].plot(index, row["PSNR to dense, dB"], "o", color=colour)
    axes[0, 0].axhline(0, color="0.5", linestyle=":")
    axes[0, 0].set_xticks(range(len(scales)), [f"scale {scale}" if scale != "all" else "all" for scale in scales])
    axes[0, 0].set(ylabel="Spearman with damage", ylim=(-1.05, 1.05))
    axes[0, 0].legend(ncols=3, loc="lower left", fontsize=8)
    axes[0, 1].set_xticks([0, 1], [STANDARDISED, PLAIN])
    axes[0, 1].set(title=f"at {_TARGET:.0%} of the FLOPs", ylabel="PSNR to dense, dB", xlim=(-0.5, 1.5))
    return made


STUDY = Normalisation()
