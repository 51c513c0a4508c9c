"""What each dimension of ToProVAR is worth: the formula with one of them switched off, at equal cost."""

from __future__ import annotations

from matplotlib.figure import Figure

from toprovar.evaluation.report.style import DENSE, figure
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.laboratory import Laboratory
from toprovar.studies.pareto import compared

__all__ = ["STUDY", "Ablation"]

_TARGET = 0.4
_VARIANTS: dict[str, tuple[str, dict[str, object]]] = {
    "formula": ("toprovar", {}),
    "no scale: one depth for all prompts": ("toprovar", {"scale": False}),
    "no layer: one share for all layers": ("toprovar", {"layer": False}),
    "no token: tokens at random": ("toprovar", {"token": False}),
    "entropy as it is, not standardised": ("toprovar", {"standardised": False, "scale": False}),
    "ranked by the scale's own entropy": ("toprovar", {"selector": "own_scale"}),
    "ranked by both scales": ("toprovar", {"selector": "both_scales"}),
    "restored from the cache": ("toprovar", {"restoration": "cached"}),
    "blank tokens draw nothing": ("toprovar", {"restoration": "blank"}),
    "guidance to the end": ("toprovar", {"guidance": "full"}),
    "late scales reuse guidance": ("toprovar", {"guidance": "reused"}),
    "the last scale alone omits guidance": ("toprovar", {"spared": 1}),
    "search": ("toprovar_search", {}),
    "search, tokens at random": ("toprovar_search", {"selector": "random"}),
    "search, passed through, not restored": ("toprovar_search", {"restoration": "identity"}),
    "search, layers apart": ("toprovar_search", {"layers": True}),
    "search, greedy": ("toprovar_search", {"layers": True, "order": "greedy"}),
    "search, whole scales only": ("toprovar_search", {"tokens": False}),
    "search, reused guidance": ("toprovar_search", {"guidance": "reused"}),
    "search, full guidance": ("toprovar_search", {"guidance": "full"}),
}


class Ablation(Study):
    """One dimension off at a time."""

    title = "What each part is worth"
    question = f"How much is lost at {_TARGET:.0%} of the FLOPs when a part of the method is switched off?"

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """Every variant that reaches the target."""
        prompts = laboratory.suite_prompts(limit)
        dense = laboratory.run_dense(prompts)
        rows: list[Row] = []
        for name, (policy, parameters) in _VARIANTS.items():
            plan = laboratory.plan_within_reach(name, laboratory.policy(policy, **parameters), _TARGET)
            if plan is not None:
                rows.append(compared(laboratory.run(name, plan, prompts), dense, _TARGET))
        ordered = sorted(rows, key=lambda row: -float(row["PSNR to dense, dB"] or 0))
        first, last = ordered[0], ordered[-1]
        answer = (
            f"Nearest to dense: {first['plan']} ({first['PSNR to dense, dB']} dB, score {first['score']}); "
            f"farthest: {last['plan']} ({last['PSNR to dense, dB']} dB, score {last['score']})."
        )
        return Finding(answer, tuple(rows), _draw(rows))


def _draw(rows: list[Row]) -> Figure:
    made, axes = figure(0.28 * len(rows) + 1.0, 1, 2, sharey=True)
    places = range(len(rows))
    for axis, column, low, high in (
        (axes[0, 0], "PSNR to dense, dB", "PSNR from", "PSNR to"),
        (axes[0, 1], "score against dense", "from", "to"),
    ):
        for place, row in zip(places, rows, strict=True):
            axis.plot([float(row[low] or 0), float(row[high] or 0)], [place, place], color=DENSE, linewidth=1.5)
            axis.plot(float(row[column] or 0), place, "o", color=DENSE)
        axis.set(xlabel=column)
    axes[0, 0].set_yticks(list(places), [str(row["plan"]) for row in rows])
    axes[0, 0].invert_yaxis()
    axes[0, 1].axvline(0, color="0.5", linestyle=":")
    return made


STUDY = Ablation()
