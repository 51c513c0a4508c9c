"""The figures of one run against another on the same prompts and noise, with 95 % intervals."""

from __future__ import annotations

from toprovar.evaluation.bootstrap import bootstrap
from toprovar.studies.base import Row
from toprovar.studies.laboratory import Run

__all__ = ["against", "differences"]


def against(run: Run, base: Run, name: str, dense: Run) -> Row:
    """Columns for FLOPs, score and PSNR, and how the last two differ from another run's.

    Args:
        run: what is compared.
        base: with what.
        name: what that is called in the columns.
        dense: the dense run.
    """
    score = bootstrap(run.values("passed"), run.categories)
    change = bootstrap(differences(run, base, "passed"), run.categories)
    near, nearer = bootstrap(run.values("psnr")), bootstrap(differences(run, base, "psnr"))
    return {
        "FLOPs": round(run.mean("flops"), 4),
        "score": round(score.mean, 4),
        f"score against {name}": round(change.mean, 4),
        "from": round(change.low, 4),
        "to": round(change.high, 4),
        "score of dense": round(bootstrap(dense.values("passed"), dense.categories).mean, 4),
        "PSNR to dense, dB": round(near.mean, 2),
        f"PSNR against {name}, dB": round(nearer.mean, 2),
        "PSNR from": round(nearer.low, 2),
        "PSNR to": round(nearer.high, 2),
        "prompts": len(run.outcomes),
    }


def differences(run: Run, base: Run, name: str) -> list[float]:
    """One figure of every outcome less that of the same prompt in another run."""
    return [own - other for own, other in zip(run.values(name), base.values(name), strict=True)]
