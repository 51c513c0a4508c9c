"""Leaves nothing out: what every other policy is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toprovar.calibration.policy import Policy, Task
from toprovar.plan import Ranking, ScalePlan, SparsityPlan
from toprovar.stats import CalibrationStats

__all__ = ["POLICY", "Dense", "dense_plan"]


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


@dataclass(frozen=True)
class Dense(Policy):
    """Has no parameters."""

    def __call__(self, stats: CalibrationStats, task: Task) -> SparsityPlan:
        """The plan that computes everything, whatever the target."""
        return dense_plan(stats.schedule, task)


POLICY = Dense()
