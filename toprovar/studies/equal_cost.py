"""Every policy at the same cost: is any peer better?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from toprovar.evaluation.bootstrap import bootstrap
from toprovar.evaluation.fidelity import pooled_psnr
from toprovar.evaluation.report.style import DENSE, SPARSE, figure
from toprovar.extensions import POLICIES
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.comparison import differences
from toprovar.studies.laboratory import Laboratory, Run
from toprovar.studies.pareto import POOLED, compared

__all__ = ["STUDY", "EqualCost", "words"]

_TARGET = 0.4
_OURS = ("toprovar", "toprovar_search")
_WITHIN = 0.01


class EqualCost(Study):
    """All policies at one target."""

    title = "Every policy at the same cost"
    question = (
        f"At {_TARGET:.0%} of the FLOPs, on the same prompts and noise: does a peer keep the pictures better, by the "
        "score or by the distance to dense, and how much faster is each, everything included?"
    )

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """Every policy that reaches the target."""
        prompts = laboratory.suite_prompts(limit)
        dense = laboratory.run_dense(prompts)
        runs: dict[str, Run] = {}
        for name in (name for name in POLICIES.names() if name != "dense"):
            plan = laboratory.plan_within_reach(f"{name} at {_TARGET:.0%}", laboratory.policy(name), _TARGET)
            if plan is not None:
                runs[name] = laboratory.run(name, plan, prompts)
        rows = [compared(run, dense, None if run is dense else _TARGET) for run in (dense, *runs.values())]
        return Finding(words(runs, dense), tuple(rows), _draw(rows))


def words(runs: Mapping[str, Run], dense: Run) -> str:
    """How ours that is nearest to dense does against dense and against every peer."""
    ours = [name for name in _OURS if name in runs]
    if not ours:
        return f"No answer: {_TARGET:.0%} of the FLOPs is out of reach of ToProVAR's policies."
    best = max(ours, key=lambda name: runs[name].mean("psnr"))
    own = runs[best]
    lost = bootstrap(differences(own, dense, "passed"), own.categories)
    said = "within" if lost.mean >= -_WITHIN else "not within"
    parts = [
        f"{best}: score against dense {lost} over {len(own.outcomes)} prompts, {said} {_WITHIN:g} of it; "
        f"{own.mean('psnr'):.1f} dB to dense ({pooled_psnr(own.values('psnr')):.1f} by the mean error) and "
        f"{own.times_faster:.2f} times as fast."
    ]
    better = []
    for name, other in runs.items():
        if name in _OURS:
            continue
        nearer = bootstrap(differences(own, other, "psnr"))
        score = bootstrap(differences(own, other, "passed"), own.categories)
        parts.append(
            f"Against {name}: {nearer.mean:+.1f} dB [{nearer.low:+.1f}, {nearer.high:+.1f}] "
            f"({pooled_psnr(own.values('psnr')) - pooled_psnr(other.values('psnr')):+.1f} by the mean error), score "
            f"{score.mean:+.3f} [{score.low:+.3f}, {score.high:+.3f}]{_unequal(other)}."
        )
        if nearer.mean < 0 and score.mean < 0:
            better.append(name)
    verdict = f"Better in both: {', '.join(better)}." if better else "No peer is better in both."
    return " ".join([*parts, verdict])


def _unequal(run: Run) -> str:
    """A per-prompt rule may spend more on other prompts than on those that it was fitted to."""
    flops = run.mean("flops")
    return f" (which took {flops:.0%} of the FLOPs on these prompts)" if abs(flops - _TARGET) > 0.02 else ""


def _draw(rows: Sequence[Row]) -> Figure:
    sparse = sorted(rows[1:], key=lambda row: float(row["PSNR to dense, dB"] or 0))
    made, axes = figure(0.32 * len(sparse) + 1.0, 1, 4, sharey=True)
    panels = (
        ("PSNR to dense, dB", "PSNR from", "PSNR to"),
        (POOLED, None, None),
        ("score against dense", "from", "to"),
        ("times faster", None, None),
    )
    for axis, (column, low, high) in zip(axes[0], panels, strict=True):
        for place, row in enumerate(sparse):
            colour = SPARSE if row["plan"] in _OURS else DENSE
            if low is not None and high is not None:
                axis.plot([float(row[low] or 0), float(row[high] or 0)], [place, place], color=colour, linewidth=1.5)
            axis.plot(float(row[column] or 0), place, "o", color=colour)
        axis.set(xlabel=column)
    axes[0, 2].axvline(0, color="0.5", linestyle=":")
    axes[0, 0].set_yticks(range(len(sparse)), [str(row["plan"]) for row in sparse])
    return made


STUDY = EqualCost()
