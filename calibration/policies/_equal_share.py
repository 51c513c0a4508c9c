"""What some policies have in common: the last scales keep an equal share of tokens, the same in all layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from toprovar.calibration.budget import out_of_reach, weakest
from toprovar.calibration.counts import MULTIPLE, rounded_count
from toprovar.calibration.policy import Policy, Task
from toprovar.plan import Ranking, ScalePlan, SparsityPlan
from toprovar.pruning import Restoration
from toprovar.stats import CalibrationStats

__all__ = ["EqualShare"]


@dataclass(frozen=True)
class EqualShare(Policy):
    """The share is the free parameter that meets the target.

    Attributes:
        scales: number of scales that are pruned, the last ones.
        share: tokens that they keep; None looks for the share that meets the target.
        most_pruned: largest share of a scale's tokens that the search leaves out.
        restoration: what becomes of the tokens that are left out.
    """

    scales: int = 3
    share: float | None = None
    most_pruned: float = 1.0
    restoration: Restoration = "identity"

    @property
    @abstractmethod
    def name(self) -> str:
        """Name of the policy."""

    @property
    @abstractmethod
    def selector(self) -> str:
        """What ranks the tokens."""

    def least(self, height: int, width: int) -> int:
        """Tokens of a grid that are kept whatever the budget."""
        return MULTIPLE

    def constants(self) -> Mapping[str, bool | int | float | str]:
        """Published numbers that take part but are no fields."""
        return {}

    def __call__(self, stats: CalibrationStats, task: Task) -> SparsityPlan:
        """Finds the largest share whose cost meets the target.

        Raises:
            UsageError: not even the smallest share does, or the given one does not.
        """

        def cost(pruned: float) -> float:
            return task.cost(stats.schedule, self._kept(stats, 1 - pruned)).ratio

        pruned = self.most_pruned if self.share is None else 1 - self.share
        found = weakest(cost, pruned, task.target_flops) if self.share is None else pruned
        if found is None or cost(found) > task.target_flops:
            last = min(self.scales, len(stats.schedule) - 1)
            why = f"pruning the last {last} scales as far as it may go saves"
            raise out_of_reach(task.target_flops, cost(pruned), why)
        kept = self._kept(stats, 1 - found)
        plan_cost = task.cost(stats.schedule, kept)
        return SparsityPlan(
            policy=self.name,
            parameters={
                "scales": self.scales,
                "share": 1 - found,
                "most_pruned": self.most_pruned,
                **self.constants(),
                "target_flops": task.target_flops,
                "expected_flops": plan_cost.ratio,
            },
            model_sha256=stats.model_sha256,
            scales=tuple(ScalePlan(*grid, tuple(own)) for grid, own in zip(stats.schedule, kept, strict=True)),
            ranking=Ranking(self.selector),
            restoration=self.restoration,
            depth_rule=None,
            cost=plan_cost,
        )

    def _kept(self, stats: CalibrationStats, share: float) -> list[list[int]]:
        # The first scale has nothing to be ranked by.
        first = max(len(stats.schedule) - self.scales, 1)
        table = []
        for scale, (height, width) in enumerate(stats.schedule):
            tokens = height * width
            count = tokens
            if scale >= first:
                count = min(max(rounded_count(share * tokens, tokens), self.least(height, width)), tokens)
            table.append([count] * stats.layers)
        return table
