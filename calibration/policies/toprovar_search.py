"""ToProVAR's three dimensions from measured sensitivities: divides a FLOP budget over scales, layers and tokens.

Where the formula sets how much each scale, layer and token may lose, this policy looks up what it was seen to lose
(`toprovar.calibration.sensitivity`): the error of the finished picture when a whole scale keeps three quarters, half,
a quarter or none of its tokens, and when guidance ends at a scale. Losses of scales are added up as if they were
independent. A scale's curve need not be convex (leaving a scale out adds nothing wrong, a few tokens among restored
ones do), so the budget is divided by dynamic programming over counts, not by slopes.

Layers of a scale keep the same tokens unless told otherwise. They can be told apart by what each loses at the logits
alone, brought to the unit of the picture by what the scale loses as a whole at half of its tokens; but such losses do
not add up (`toprovar study search` measures how far they are off), and plans made with them are worse.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from toprovar.calibration.allocation import PICK_UNITS, Choice, allocate, pick
from toprovar.calibration.budget import out_of_reach, weakest
from toprovar.calibration.counts import MULTIPLE, rounded_count
from toprovar.calibration.policy import Policy, Task
from toprovar.calibration.ranking import entropy_ranking
from toprovar.cost import block_flops
from toprovar.errors import UsageError
from toprovar.plan import PlanCost, ScalePlan, SparsityPlan
from toprovar.pruning import Restoration, Unconditional
from toprovar.stats import CalibrationStats, LayerStats, ScaleStats

__all__ = ["POLICY", "ToProVARSearch", "predicted_error"]

_COUNTS = 64
"""Kept counts that are considered a scale, at most."""

_LAYERED = 16
"""Budgets that are tried for dividing a scale over its layers."""


@dataclass(frozen=True)
class _Way:
    """One way to compute a scale: what it costs and loses, and the share that each layer keeps."""

    choice: Choice
    shares: tuple[float, ...]


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
        order: ``joint`` weighs all scales, and for each all layers alike or each its own; ``greedy`` first divides
            the budget over scales whose layers are alike, then each scale's over its layers, as the formula's order
            suggests.
        layers: layers of a scale may differ; the order matters only then.
        tokens: layers may keep some of their tokens; without, all or none.
        guidance: what the unconditional half of late scales may do instead of running; ``full`` lets it run.
        selector: what ranks the tokens.
        restoration: what becomes of the others.
    """

    order: Literal["joint", "greedy"] = "joint"
    layers: bool = False
    tokens: bool = True
    guidance: Unconditional = "omitted"
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
        if len(stats.scales) > 1 and not any(scale.sensitivity for scale in stats.scales):
            raise UsageError(
                "the calibration holds no sensitivities; toprovar_search divides the budget by them",
                "calibrate anew for this policy",
            )
        starts = self._starts(stats)
        drafts = [draft for start in starts if (draft := self._draft(stats, task, start)) is not None]
        if not drafts:
            least = min(self._divided(stats, task, start)(0.0).cost.ratio for start in starts)
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
                "expected_picture_error": best.damage,
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
        probed = [
            index
            for index, scale in enumerate(stats.scales)
            if any(one.mode == self.guidance for one in scale.guidance)
        ]
        return [*probed, scales]

    def _draft(self, stats: CalibrationStats, task: Task, start: int) -> _Draft | None:
        """The best plan within the target for one start."""
        divided = self._divided(stats, task, start)
        # A layer's cost depends on its keys, and so on what earlier scales keep, which a scale on its own cannot
        # know: the share to divide is found by what whole plans cost.
        found = weakest(lambda saved: divided(1 - saved).cost.ratio, 1.0, task.target_flops)
        return None if found is None else divided(1 - found)

    def _divided(self, stats: CalibrationStats, task: Task, start: int) -> _Divided:
        scales = len(stats.schedule)
        modes: list[Unconditional] = ["full" if scale < start else self.guidance for scale in range(scales)]
        ended = stats.scales[start].guidance if start < scales else ()
        lost = sum(one.picture_error for one in ended if one.mode == self.guidance)
        return _Divided(self, stats, task, tuple(modes), lost)

    def ways(self, scale: ScaleStats, task: Task, mode: Unconditional) -> list[_Way]:
        """Everything that is considered for one scale."""
        curves = _layer_curves(scale, task, mode)
        every = (1.0,) * len(curves)
        if not scale.sensitivity:
            return [_Way(Choice(sum(curve[0].cost for curve in curves), 0.0, 1.0), every)]
        tokens = scale.height * scale.width
        alike = [_alike(scale, task, mode, share) for share in self._shares(scale, tokens)]
        # A step of the greedy order takes its layers apart only after scales have been settled.
        if not self.layers or self.order == "greedy":
            return alike
        most = sum(curve[0].cost for curve in curves)
        return alike + [self.over_layers(scale, curves, most * level / _LAYERED) for level in range(1, _LAYERED)]

    def _shares(self, scale: ScaleStats, tokens: int) -> list[float]:
        """Shares of a scale's tokens that are considered: what was probed is not extrapolated towards none."""
        if not self.tokens:
            return [0.0, 1.0]
        least = min(one.kept for one in scale.sensitivity if one.kept > 0)
        step = MULTIPLE * max(1, math.ceil(tokens / MULTIPLE / _COUNTS))
        counts = [count for count in range(step, tokens, step) if count >= least * tokens]
        return [0.0, *(count / tokens for count in counts), 1.0]

    def over_layers(self, scale: ScaleStats, curves: Sequence[Sequence[Choice]], budget: float) -> _Way:
        """The least damage that single layers do within a budget."""
        if self.tokens:
            shares = allocate(curves, budget)
        else:
            whole = [[one for one in curve if one.kept in (0, 1)] for curve in curves]
            shares = [curve[place].kept for curve, place in zip(whole, pick(whole, budget), strict=True)]
        cost = sum(_cost_at(curve, share) for curve, share in zip(curves, shares, strict=True))
        return _Way(Choice(cost, predicted_error(scale, shares), float(np.mean(shares))), tuple(shares))


@dataclass(frozen=True)
class _Divided:
    """Plans for one end of guidance, by the share of the dense cost that is divided."""

    policy: ToProVARSearch
    stats: CalibrationStats
    task: Task
    modes: tuple[Unconditional, ...]
    lost: float

    @functools.cached_property
    def _ways(self) -> list[list[_Way]]:
        scales = zip(self.stats.scales, self.modes, strict=True)
        return [self.policy.ways(scale, self.task, mode) for scale, mode in scales]

    @functools.cached_property
    def _dense(self) -> float:
        return sum(max(one.cost for one in curve) for s in self.stats.scales for curve in _layer_curves(s, self.task))

    def __call__(self, share: float) -> _Draft:
        """Divides this share of the dense cost."""
        # Half a unit more a scale, so that all of the cost divides into all of the tokens however it is rounded.
        budget = share * self._dense * (1 + len(self._ways) / 2 / PICK_UNITS)
        picked = pick([[way.choice for way in ways] for ways in self._ways], budget)
        own = [ways[place] for ways, place in zip(self._ways, picked, strict=True)]
        if self.policy.layers and self.policy.order == "greedy":
            own = [
                self._layered(scale, mode, way)
                for scale, mode, way in zip(self.stats.scales, self.modes, own, strict=True)
            ]
        kept = []
        for scale, way in zip(self.stats.scales, own, strict=True):
            tokens = scale.height * scale.width
            kept.append([rounded_count(part * tokens, tokens) for part in way.shares])
        damage = self.lost + sum(way.choice.damage for way in own)
        return _Draft(kept, list(self.modes), damage, self.task.cost(self.stats.schedule, kept, self.modes))

    def _layered(self, scale: ScaleStats, mode: Unconditional, way: _Way) -> _Way:
        if min(way.shares) == 1:
            return way
        return self.policy.over_layers(scale, _layer_curves(scale, self.task, mode), way.choice.cost)


def predicted_error(scale: ScaleStats, shares: Sequence[float]) -> float:
    """Error that the finished picture is expected to have if this scale alone is pruned; linear between probes.

    Args:
        scale: what calibration measured of the scale.
        shares: of its tokens that each layer keeps.

    Returns:
        Mean squared difference to dense over the square of the range.
    """
    if len(set(shares)) == 1:
        return _read([(1.0, 0.0), *((one.kept, one.picture_error) for one in scale.sensitivity)], shares[0])
    price = _picture_price(scale)
    return price * sum(_read(_losses(layer), share) for layer, share in zip(scale.layers, shares, strict=True))


def _losses(layer: LayerStats) -> list[tuple[float, float]]:
    return [(1.0, 0.0), *((one.kept, one.kl + (one.later_kl or 0.0)) for one in layer.sensitivity)]


def _alike(scale: ScaleStats, task: Task, mode: Unconditional, share: float) -> _Way:
    """All layers keep one share."""
    shares = (share,) * len(scale.layers)
    cost = len(shares) * _cost(scale, task, mode, round(share * scale.height * scale.width))
    return _Way(Choice(cost, predicted_error(scale, shares), share), shares)


def _layer_curves(scale: ScaleStats, task: Task, mode: Unconditional = "full") -> list[list[Choice]]:
    """Damage over cost of every layer alone; a layer that was not probed has one point."""
    tokens, price = scale.height * scale.width, _picture_price(scale)
    curves = []
    for layer in scale.layers:
        points = _losses(layer)
        curves.append(
            [Choice(_cost(scale, task, mode, round(kept * tokens)), price * loss, kept) for kept, loss in points]
        )
    return curves


def _picture_price(scale: ScaleStats) -> float:
    """Error of the picture for a nat of divergence, as the whole scale shows it at half of its tokens."""
    if not scale.sensitivity:
        return 1.0
    half = min(scale.sensitivity, key=lambda one: abs(one.kept - 0.5))
    return half.picture_error / max(half.kl + (half.later_kl or 0.0), 1e-12)


def _cost(scale: ScaleStats, task: Task, mode: Unconditional, count: int) -> float:
    """FLOPs of one layer that keeps so many tokens; all earlier keys are there."""
    keys = scale.keys - scale.height * scale.width + count
    return block_flops(task.model.width, count, keys, task.text_tokens, 2 if mode == "full" else 1)


def _cost_at(curve: Sequence[Choice], kept: float) -> float:
    return _read([(one.kept, one.cost) for one in curve], kept)


def _read(points: Sequence[tuple[float, float]], at: float) -> float:
    """The value between the two nearest points."""
    places, values = zip(*sorted(points), strict=True)
    return float(np.interp(at, places, values))


POLICY = ToProVARSearch()
