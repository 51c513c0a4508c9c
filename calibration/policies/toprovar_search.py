"""ToProVAR's three dimensions from measured sensitivities: divides a FLOP budget over scales, layers and tokens.

Where the formula sets how much each scale, layer and token may lose, this policy looks up what it was seen to lose:
the divergence of the logits, at the pruned scale and the next, when one layer of one scale keeps half, a quarter or
none of its tokens (`toprovar.calibration.sensitivity`). Damages are added up as if they were independent, each
curve is made convex, and the budget goes where it saves most damage; on such curves that is optimal. The last
scales may also spare the unconditional half, which costs half of a scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from toprovar.calibration.allocation import Choice, allocate
from toprovar.calibration.budget import out_of_reach, weakest
from toprovar.calibration.counts import rounded_count
from toprovar.calibration.policy import Policy, Task
from toprovar.calibration.ranking import entropy_ranking
from toprovar.cost import block_flops
from toprovar.errors import UsageError
from toprovar.plan import PlanCost, ScalePlan, SparsityPlan
from toprovar.pruning import Restoration, Unconditional
from toprovar.stats import CalibrationStats, ScaleStats

__all__ = ["POLICY", "ToProVARSearch"]


@dataclass(frozen=True)
class _Draft:
    kept: list[list[int]]
    unconditional: list[Unconditional]
    damage: float
    cost: PlanCost


@dataclass(frozen=True)
class ToProVARSearch(Policy):
    """The search with its switches.

    Attributes:
        order: ``joint`` weighs all scales and layers against one another; ``greedy`` first divides the budget over
            scales whose layers are alike, then each scale's over its layers, as the formula's order suggests.
        layers: layers of a scale may differ.
        tokens: layers may keep some of their tokens; without, all or none.
        guidance: what the unconditional half of late scales may do instead of running; ``full`` lets it run.
        selector: what ranks the tokens.
        restoration: what becomes of the others.
    """

    order: Literal["joint", "greedy"] = "joint"
    layers: bool = True
    tokens: bool = True
    guidance: Unconditional = "reused"
    selector: str = "previous_scale"
    restoration: Restoration = "cached"

    @property
    def probes(self) -> Restoration:
        """Sensitivities are to be measured with the restoration of the plan."""
        return self.restoration

    def __call__(self, stats: CalibrationStats, task: Task) -> SparsityPlan:
        """The plan of least damage within the budget.

        Raises:
            UsageError: no sensitivities, or not even the cheapest plan reaches the target.
        """
        if not any(layer.sensitivity for scale in stats.scales for layer in scale.layers):
            raise UsageError(
                "the calibration holds no sensitivities; toprovar_search divides the budget by them",
                "calibrate anew for this policy",
            )
        drafts = [draft for start in self._starts(stats) if (draft := self._draft(stats, task, start)) is not None]
        if not drafts:
            least = min(self._allocated(stats, task, start, 0.0).cost.ratio for start in self._starts(stats))
            raise out_of_reach(task.target_flops, least, "leaving out all that was probed saves")
        best = min(drafts, key=lambda draft: draft.damage)
        return SparsityPlan(
            policy="toprovar_search",
            parameters={
                "order": self.order,
                "layers": self.layers,
                "tokens": self.tokens,
                "guidance": self.guidance,
                "target_flops": task.target_flops,
                "expected_flops": best.cost.ratio,
                "expected_damage": best.damage,
            },
            model_sha256=stats.model_sha256,
            scales=tuple(
                ScalePlan(height, width, tuple(counts), mode)
                for (height, width), counts, mode in zip(stats.schedule, best.kept, best.unconditional, strict=True)
            ),
            ranking=entropy_ranking(stats, selector=self.selector),
            restoration=self.restoration,
            depth_rule=None,
            cost=best.cost,
        )

    def _starts(self, stats: CalibrationStats) -> list[int]:
        """First scales without the unconditional half that may be tried; the number of scales for none."""
        scales = len(stats.schedule)
        if self.guidance == "full":
            return [scales]
        probed = [index for index, scale in enumerate(stats.scales) if scale.guidance]
        return [*probed, scales]

    def _draft(self, stats: CalibrationStats, task: Task, start: int) -> _Draft | None:
        """The best plan within the target for one start; costs of layers depend on one another's keys."""

        def cost(saved: float) -> float:
            return self._allocated(stats, task, start, 1 - saved).cost.ratio

        found = weakest(cost, 1.0, task.target_flops)
        return None if found is None else self._allocated(stats, task, start, 1 - found)

    def _allocated(self, stats: CalibrationStats, task: Task, start: int, share: float) -> _Draft:
        """Divides `share` of the dense cost."""
        modes: list[Unconditional] = ["full" if s < start else self.guidance for s in range(len(stats.schedule))]
        curves = [self._curves(scale, task, mode) for scale, mode in zip(stats.scales, modes, strict=True)]
        dense = [self._curves(scale, task, "full") for scale in stats.scales]
        budget = share * sum(max(one.cost for one in curve) for scale in dense for curve in scale)
        shares = self._greedy(curves, budget) if self.order == "greedy" else self._joint(curves, budget)
        kept, damage = [], 0.0
        for scale, mode, own, curve in zip(stats.scales, modes, shares, curves, strict=True):
            tokens = scale.height * scale.width
            kept.append([rounded_count(part * tokens, tokens) for part in own])
            damage += sum(_interpolated(points, part) for points, part in zip(curve, own, strict=True))
            damage += sum(one.kl for one in scale.guidance if one.mode == mode)
        return _Draft(kept, modes, damage, task.cost(stats.schedule, kept, modes))

    def _joint(self, curves: list[list[list[Choice]]], budget: float) -> list[list[float]]:
        if not self.layers:
            merged = [_merged(scale) for scale in curves]
            return [[part] * len(scale) for part, scale in zip(allocate(merged, budget), curves, strict=True)]
        flat = iter(allocate([curve for scale in curves for curve in scale], budget))
        return [[next(flat) for _ in scale] for scale in curves]

    def _greedy(self, curves: list[list[list[Choice]]], budget: float) -> list[list[float]]:
        merged = [_merged(scale) for scale in curves]
        shares = allocate(merged, budget)
        if not self.layers:
            return [[part] * len(scale) for part, scale in zip(shares, curves, strict=True)]
        budgets = [_interpolated(points, part, "cost") for points, part in zip(merged, shares, strict=True)]
        return [allocate(scale, own) for scale, own in zip(curves, budgets, strict=True)]

    def _curves(self, scale: ScaleStats, task: Task, mode: Unconditional) -> list[list[Choice]]:
        """Damage over cost of every layer; a layer that was not probed has one point."""
        tokens, rows = scale.height * scale.width, 2 if mode == "full" else 1
        curves = []
        for layer in scale.layers:
            points = [(1.0, 0.0), *((one.kept, one.kl + (one.later_kl or 0.0)) for one in layer.sensitivity)]
            curve = []
            for kept, damage in points:
                if not self.tokens and 0 < kept < 1:
                    continue
                count = round(kept * tokens)
                keys = scale.keys - tokens + count
                cost = block_flops(task.model.width, count, keys, task.text_tokens, rows)
                curve.append(Choice(cost, damage, kept))
            curves.append(curve)
        return curves


def _merged(scale: Sequence[Sequence[Choice]]) -> list[Choice]:
    """One curve for a scale whose layers all keep the same share."""
    return [
        Choice(sum(one.cost for one in points), sum(one.damage for one in points), points[0].kept)
        for points in zip(*scale, strict=True)
    ]


def _interpolated(points: Sequence[Choice], kept: float, what: Literal["cost", "damage"] = "damage") -> float:
    ascending = sorted(points, key=lambda one: one.kept)
    return float(np.interp(kept, [one.kept for one in ascending], [getattr(one, what) for one in ascending]))


POLICY = ToProVARSearch()
