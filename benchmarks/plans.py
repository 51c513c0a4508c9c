"""The plans that are compared, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from random_model import RandomModel

from toprovar.calibration.counts import rounded_count
from toprovar.calibration.policies.dense import dense_plan
from toprovar.calibration.policies.fastvar import FastVAR
from toprovar.calibration.policy import Task
from toprovar.plan import Ranking, SparsityPlan

__all__ = ["PLANS"]

_LATE = 4
"""Scales that are pruned, the last ones."""


def _task(model: RandomModel) -> Task:
    return Task(model.record, 1.0, 24)


def _dense(model: RandomModel) -> SparsityPlan:
    return dense_plan(model.grids, _task(model))


def _late(share: float) -> Callable[[RandomModel], SparsityPlan]:
    """The last scales keep a share, ranked by the entropy that two layers observe."""

    def make(model: RandomModel) -> SparsityPlan:
        layers, heads, scales = model.record.layers, model.record.heads, len(model.grids)
        kept = [
            (rounded_count(share * height * width, height * width) if index >= scales - _LATE else height * width,)
            * layers
            for index, (height, width) in enumerate(model.grids)
        ]
        observers = tuple(sorted({layers // 3, 2 * layers // 3}))
        table = (((0.9,) * heads,) * len(observers),) * scales
        dense = _dense(model)
        return dataclasses.replace(
            dense,
            policy=f"last {_LATE} scales at {share:.0%}",
            scales=tuple(dataclasses.replace(scale, kept=own) for scale, own in zip(dense.scales, kept, strict=True)),
            ranking=Ranking("previous_scale", observers, table, table),
            cost=_task(model).cost(model.grids, kept),
        )

    return make


def _fastvar(model: RandomModel) -> SparsityPlan:
    facts: Any = SimpleNamespace(layers=model.record.layers, schedule=model.grids, model_sha256=model.record.sha256)
    published = model.grids[-1] == (64, 64)
    policy = FastVAR(literal=True) if published else FastVAR(ratio=0.4)
    return policy(facts, _task(model))


PLANS: dict[str, Callable[[RandomModel], SparsityPlan]] = {
    "dense": _dense,
    "keep25": _late(0.25),
    "keep40": _late(0.4),
    "fastvar": _fastvar,
}
"""``keep25`` and ``keep40``: the last four scales at that share of tokens. ``fastvar``: its published schedule."""
