"""FastVAR (arXiv 2503.23367): prunes two late scales, restores from the scale before them, leaves out the last ones.

Published (csguoh/FastVAR at 34cdd65, Infinity, 13 scales): 40 % of the tokens are pruned at side 32 and 50 % at side
40, in layers 3 to 27 of 32, ranked in each by `toprovar.models.selectors.deviation`; what is pruned takes the layer's
update at side 24, resized; sides 48 and 64 are left out.

Meeting a budget: the two pruned scales lie before those that are left out and prune r and 1.25 r, which is the
published ratio of ratios. At first nothing is left out and r grows to 0.6; then one scale is left out, then two as
published. Where even r = 0 with one scale more left out would spend too little, r grows to 0.8 instead.

Deviations:
- scales are counted from the last, layers as shares of the depth: 3/32 at the start and 4/32 at the end are dense
  (published: sides and layers of the 2B model; the field `literal` has the sides);
- r, and the number of scales left out, are what meets the target (published: 0.4, and 2);
- one ranking a layer (published: one for each of its three sub-layers), of the conditional row for both rows of a
  guidance pair (published: each row for itself), so that one cached update a layer takes the place of three;
- updates are those of the latest scale that ran dense, resized bilinearly (published: of side 24, by area);
- counts are multiples of 8 (published: any).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toprovar.calibration.budget import out_of_reach, weakest
from toprovar.calibration.counts import MULTIPLE, rounded_count
from toprovar.calibration.policy import Policy, Task
from toprovar.plan import Ranking, ScalePlan, SparsityPlan
from toprovar.pruning import Restoration
from toprovar.stats import CalibrationStats

__all__ = ["POLICY", "FastVAR"]

_SIDES: Mapping[int, float | None] = {32: 0.4, 40: 0.5, 48: None, 64: None}
"""Published share pruned by the side of a grid; None is a scale left out."""

_Pruned = list[float | None]
"""Share pruned of every scale; None is a scale left out."""


@dataclass(frozen=True)
class FastVAR(Policy):
    """The ladder of settings with its constants.

    Attributes:
        ratio: r, the share pruned of the first pruned scale; None looks for what meets the target.
        left_out: last scales that are left out where `ratio` is given, and at most otherwise.
        growth: share pruned of the second scale over that of the first.
        usual: largest r before another scale is left out.
        largest: largest r at all.
        dense_first: share of the layers that stay dense at the start, one at least.
        dense_last: the same at the end.
        literal: prune the published sides with the published ratios, whatever the schedule.
        restoration: what becomes of the tokens that are left out.
    """

    ratio: float | None = None
    left_out: int = 2
    growth: float = 1.25
    usual: float = 0.6
    largest: float = 0.8
    dense_first: float = 3 / 32
    dense_last: float = 4 / 32
    literal: bool = False
    restoration: Restoration = "cached"

    def __call__(self, stats: CalibrationStats, task: Task) -> SparsityPlan:
        """Finds the mildest setting that meets the target.

        Raises:
            UsageError: none does, or the given one does not.
        """
        ratio, pruned = self._setting(stats, task)
        kept = self._kept(stats, pruned)
        cost = task.cost(stats.schedule, kept)
        if cost.ratio > task.target_flops:
            raise out_of_reach(
                task.target_flops,
                cost.ratio,
                f"pruning up to {ratio:.0%} and leaving out {pruned.count(None)} scales saves",
            )
        layers = self._pruned_layers(stats.layers)
        return SparsityPlan(
            policy="fastvar",
            parameters={
                "ratio": ratio,
                "growth": self.growth,
                "left_out": pruned.count(None),
                "literal": self.literal,
                "first_pruned_layer": layers.start,
                "last_pruned_layer": layers.stop - 1,
                "target_flops": task.target_flops,
                "expected_flops": cost.ratio,
            },
            model_sha256=stats.model_sha256,
            scales=tuple(ScalePlan(*grid, tuple(own)) for grid, own in zip(stats.schedule, kept, strict=True)),
            ranking=Ranking("deviation"),
            restoration=self.restoration,
            depth_rule=None,
            cost=cost,
        )

    def _setting(self, stats: CalibrationStats, task: Task) -> tuple[float, _Pruned]:
        """The mildest r that meets the target, or the strongest of all, with what it prunes."""
        scales = len(stats.schedule)
        if self.literal:
            return 0.4, [_SIDES.get(width, 0.0) for _, width in stats.schedule]
        # Two scales are pruned, and the one before them is what they are restored from.
        most = min(self.left_out, scales - 3)
        if most < 0:
            return 0.0, [0.0] * scales
        if self.ratio is not None:
            return self.ratio, self._pruned(scales, self.ratio, most)

        def found(left_out: int, largest: float) -> float | None:
            def cost(ratio: float) -> float:
                return task.cost(stats.schedule, self._kept(stats, self._pruned(scales, ratio, left_out))).ratio

            return weakest(cost, largest, task.target_flops)

        for left_out in range(most + 1):
            ratio = found(left_out, self.usual)
            if ratio is None:
                continue
            if ratio == 0 and left_out:
                stronger = found(left_out - 1, self.largest)
                if stronger is not None:
                    return stronger, self._pruned(scales, stronger, left_out - 1)
            return ratio, self._pruned(scales, ratio, left_out)
        ratio = found(most, self.largest)
        ratio = self.largest if ratio is None else ratio
        return ratio, self._pruned(scales, ratio, most)

    def _pruned(self, scales: int, ratio: float, left_out: int) -> _Pruned:
        late = [ratio, min(self.growth * ratio, 1.0), *[None] * left_out]
        return [*[0.0] * (scales - len(late)), *late]

    def _kept(self, stats: CalibrationStats, pruned: _Pruned) -> list[list[int]]:
        layers = self._pruned_layers(stats.layers)
        table = []
        for (height, width), share in zip(stats.schedule, pruned, strict=True):
            tokens = height * width
            if share is None:
                table.append([0] * stats.layers)
                continue
            count = max(rounded_count((1 - share) * tokens, tokens), min(MULTIPLE, tokens))
            table.append([count if layer in layers else tokens for layer in range(stats.layers)])
        return table

    def _pruned_layers(self, layers: int) -> range:
        first, last = (max(round(share * layers), 1) for share in (self.dense_first, self.dense_last))
        return range(first, max(layers - last, first))


POLICY = FastVAR()
