"""SkipVAR (arXiv 2506.08908): spares late scales of prompts whose picture has settled.

Published (fakerone-li/SkipVAR at 607be0e, 13 scales): after index 9 the change of the picture's edges decides
(`toprovar.runtime.statistics.high_frequency`): stop 1, 2 or 3 scales early; or if none, replace the unconditional
branch by the conditional one at the last 1, 2 or 3. The low difference is the settled picture, and skips more. Of the
shipped models those that look at HF_diff alone are thresholds: stop 3 below 0.0928, 2 below 0.1167, 1 below 0.1537.
Their training data had mean 0.1153 and deviation 0.0577, so that the thresholds lie at -0.390, 0.024 and 0.665
deviations.

Meeting a budget: those three places, as quantiles of a normal distribution, are taken among the calibration prompts'
own values and shifted together; the shift is the free parameter that meets the target on average over the prompts.

Deviations:
- a plan either stops early or replaces (published: stop early first, then replace): it replaces where replacing can
  meet the target, and stops early below;
- HF_diff alone decides (published: a classifier on HF_diff and HF_ratio, fitted by the SSIM that a choice keeps);
- both choices are made at the same three places (published: a second classifier for the replacement, fitted on what
  the first leaves over);
- scales are counted from the last (published: indices 9 to 12).

The decision itself costs two small decodes, which the predicted FLOPs, those of the transformer, do not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import Literal

from toprovar.calibration.budget import out_of_reach, weakest
from toprovar.calibration.policy import Policy, Task
from toprovar.plan import DepthRule, PlanCost, Ranking, ScalePlan, SparsityPlan
from toprovar.pruning import Unconditional
from toprovar.stats import CalibrationStats

__all__ = ["POLICY", "PUBLISHED_THRESHOLDS", "SkipVAR"]

PUBLISHED_THRESHOLDS = (0.0928, 0.1167, 0.1537)
"""Of the shipped model for an SSIM of 0.84 that looks at HF_diff alone."""

_CUTS = tuple((threshold - 0.1153) / 0.0577 for threshold in PUBLISHED_THRESHOLDS)

_FARTHEST = 8.0
"""Shift in deviations at which every prompt, or none, is affected."""


@dataclass(frozen=True)
class SkipVAR(Policy):
    """Both choices with their constants.

    Attributes:
        mode: ``skip`` stops early, ``replace`` drops the unconditional half; ``either`` takes ``replace`` where that
            can meet the target.
        scales: at most so many scales are spared, the last ones; 3 at most unless `thresholds` are given.
        thresholds: ascending values of HF_diff, one a scale, from that below which all of them are spared; empty fits
            them to the target. Published: `PUBLISHED_THRESHOLDS`.
    """

    mode: Literal["either", "skip", "replace"] = "either"
    scales: int = len(_CUTS)
    thresholds: tuple[float, ...] = ()

    def __call__(self, stats: CalibrationStats, task: Task) -> SparsityPlan:
        """Finds the smallest shift whose cost, averaged over the calibration prompts, meets the target.

        Raises:
            UsageError: not even sparing all that may be spared does, or the given thresholds do not.
        """
        places = len(self.thresholds or _CUTS)
        late = min(self.scales, places, len(stats.schedule) - 1)
        draft = _Draft(stats, task, late, "replace")
        if self.mode == "skip" or (self.mode == "either" and draft.costs[0].ratio > task.target_flops):
            draft = _Draft(stats, task, late, "skip")
        rule, shift = draft.given_rule(self.thresholds) if self.thresholds else draft.fitted_rule()
        expected = draft.expected(rule)
        if expected > task.target_flops:
            raise out_of_reach(task.target_flops, expected, f"to {draft.mode} up to {late} scales saves")
        return SparsityPlan(
            policy="skipvar",
            parameters={
                "mode": draft.mode,
                "scales": late,
                "shift": shift,
                "published_thresholds": " ".join(map(str, PUBLISHED_THRESHOLDS)),
                "target_flops": task.target_flops,
                "expected_flops": expected,
            },
            model_sha256=stats.model_sha256,
            scales=tuple(
                ScalePlan(height, width, tuple(counts), half)
                for (height, width), counts, half in zip(stats.schedule, *draft.tables(late), strict=True)
            ),
            ranking=Ranking("none"),
            restoration="identity",
            depth_rule=rule,
            cost=draft.costs[0],
        )


class _Draft:
    """One of the two choices.

    Attributes:
        mode: which.
        costs: of sparing `late` scales, one less, ..., none.
    """

    def __init__(self, stats: CalibrationStats, task: Task, late: int, mode: Literal["skip", "replace"]) -> None:
        self.mode = mode
        self._stats = stats
        self._task = task
        self._late = late
        self._decided_after = len(stats.schedule) - late - 1
        self._values = sorted(prompt.high_frequency[self._decided_after] for prompt in stats.prompts)
        self.costs: list[PlanCost] = [task.cost(stats.schedule, *self.tables(n)) for n in range(late, -1, -1)]

    def tables(self, spared: int) -> tuple[list[list[int]], list[Unconditional]]:
        """Kept counts and what the unconditional half does, with the last `spared` scales spared."""
        schedule, layers = self._stats.schedule, self._stats.layers
        first = len(schedule) - spared
        skips = self.mode == "skip"
        kept = [
            [0 if skips and scale >= first else height * width] * layers
            for scale, (height, width) in enumerate(schedule)
        ]
        return kept, ["full" if skips or scale < first else "omitted" for scale in range(len(schedule))]

    def expected(self, rule: DepthRule) -> float:
        """FLOPs over dense, averaged over the calibration prompts."""
        first = len(self._stats.schedule) - self._late
        return fmean(self.costs[rule.depth(value) - first].ratio for value in self._values)

    def given_rule(self, thresholds: Sequence[float]) -> tuple[DepthRule, float]:
        """By thresholds that are known."""
        first = len(self._stats.schedule) - self._late
        used = tuple(thresholds[len(thresholds) - self._late :])
        depths = tuple(range(first, first + len(used) + 1))
        return DepthRule("high_frequency", self._decided_after, None, used, depths), 0.0

    def fitted_rule(self) -> tuple[DepthRule, float]:
        """By the smallest shift that meets the target, or the largest of all."""
        shift = weakest(lambda one: self.expected(self._rule(one - _FARTHEST)), 2 * _FARTHEST, self._task.target_flops)
        shift = _FARTHEST if shift is None else shift - _FARTHEST
        return self._rule(shift), shift

    def _rule(self, shift: float) -> DepthRule:
        """Parts the prompts at the published places, shifted."""
        values, depth = self._values, len(self._stats.schedule) - self._late
        thresholds: list[float] = []
        depths: list[int] = []
        below = 0
        for cut in _CUTS[len(_CUTS) - self._late :]:
            count = round(NormalDist().cdf(cut + shift) * len(values))
            if count == len(values):
                break
            threshold = (values[count - 1] + values[count]) / 2 if count else 0.0
            if count > below and threshold > (thresholds[-1] if thresholds else 0.0):
                thresholds.append(threshold)
                depths.append(depth)
                below = count
            depth += 1
        return DepthRule("high_frequency", self._decided_after, None, tuple(thresholds), (*depths, depth))


POLICY = SkipVAR()
