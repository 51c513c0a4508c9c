"""Quality over cost: every policy at several shares of the dense FLOPs, on prompts that nothing was tuned on."""

from __future__ import annotations

from matplotlib.figure import Figure

from toprovar.evaluation.bootstrap import bootstrap
from toprovar.evaluation.fidelity import pooled_psnr
from toprovar.evaluation.report.style import figure
from toprovar.extensions import POLICIES
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.comparison import differences
from toprovar.studies.laboratory import Laboratory, Run

__all__ = ["POOLED", "STUDY", "Pareto", "compared"]

POOLED = "PSNR of the mean error, dB"
"""Where a rule leaves some prompts as they are and ruins others, their mean PSNR says little."""

_TARGETS = (0.7, 0.55, 0.4, 0.3)


def compared(run: Run, dense: Run, target: float | None) -> Row:
    """One run against dense on the same prompts and noise, with 95 % intervals."""
    score = bootstrap(run.values("passed"), run.categories)
    lost = bootstrap(differences(run, dense, "passed"), run.categories)
    near = bootstrap(run.values("psnr"))
    return {
        "plan": run.name,
        "target FLOPs": target,
        "FLOPs": round(run.mean("flops"), 4),
        "score": round(score.mean, 4),
        "score against dense": round(lost.mean, 4),
        "from": round(lost.low, 4),
        "to": round(lost.high, 4),
        "PSNR to dense, dB": round(near.mean, 2),
        "PSNR from": round(near.low, 2),
        "PSNR to": round(near.high, 2),
        POOLED: round(pooled_psnr(run.values("psnr")), 2),
        "seconds": round(run.mean("seconds"), 3),
        "times faster": round(run.times_faster, 3),
    }


class Pareto(Study):
    """Quality over cost for every policy."""

    title = "Quality over cost"
    question = "Which policy keeps the pictures at equal cost, and what does each point cost by the clock?"

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """Every policy at every target that it reaches."""
        prompts = laboratory.suite_prompts(limit)
        dense = laboratory.run_dense(prompts)
        rows: list[Row] = [compared(dense, dense, 1.0)]
        for name in (name for name in POLICIES.names() if name != "dense"):
            for target in _TARGETS:
                plan = laboratory.plan_within_reach(f"{name} at {target:.0%}", laboratory.policy(name), target)
                if plan is not None:
                    rows.append(compared(laboratory.run(name, plan, prompts), dense, target))
        return Finding(_answer(rows), tuple(rows), _draw(rows))


def _answer(rows: list[Row]) -> str:
    lines = []
    for target in _TARGETS:
        own = [row for row in rows if row["target FLOPs"] == target]
        if own:
            nearest = max(own, key=lambda row: float(row[POOLED] or 0))
            best = max(own, key=lambda row: float(row["score"] or 0))
            lines.append(
                f"At {target:.0%} of the FLOPs {nearest['plan']} is nearest to dense "
                f"({nearest[POOLED]} dB by the mean error) and {best['plan']} scores best ({best['score']}; "
                f"dense {rows[0]['score']})."
            )
    return " ".join(lines)


def _draw(rows: list[Row]) -> Figure:
    made, axes = figure(3.6, 1, 2)
    names = sorted({str(row["plan"]) for row in rows[1:]})
    for place, (column, label) in enumerate(((POOLED, "PSNR to dense of the mean error, dB"), ("score", "ShapeEval"))):
        axis = axes[0, place]
        for index, name in enumerate(names):
            own = sorted((row for row in rows[1:] if row["plan"] == name), key=lambda row: float(row["FLOPs"] or 0))
            style = {"marker": "osv^D<>P"[index % 8], "color": f"C{index}", "label": name, "linewidth": 1.2}
            axis.plot([row["FLOPs"] for row in own], [row[column] for row in own], **style)
        if column == "score":
            axis.axhline(float(rows[0]["score"] or 0), color="0.5", linestyle=":", label="dense")
        axis.set(xlabel="transformer FLOPs, share of dense", ylabel=label)
    axes[0, 1].legend(fontsize=8)
    return made


STUDY = Pareto()
