"""Leaves nothing out: what every other policy is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from toprovar.calibration.policy import Task
from toprovar.plan import Ranking, ScalePlan, SparsityPlan
from toprovar.stats import CalibrationStats

__all__ = ["POLICY", "dense_plan"]


def dense_plan(schedule: Sequence[tuple[int, int]], task: Task) -> SparsityPlan:
    """The plan that computes everything; needs no calibration."""
    layers = task.model.layers
    kept = [[height * width] * layers for height, width in schedule]
    return SparsityPlan(
        policy="dense",
        parameters={},
        model_sha256=task.model.sha256,
        scales=tuple(ScalePlan(h, w, tuple(counts)) for (h, w), counts in zip(schedule, kept, strict=True)),
        ranking=Ranking("none"),
        restoration="identity",
        depth_rule=None,
        cost=task.cost(schedule, kept),
    )


def _from_stats(stats: CalibrationStats, task: Task) -> SparsityPlan:
    return dense_plan(stats.schedule, task)


POLICY = _from_stats
