"""ToProVAR's formula (Chen et al., ICLR 2026, arXiv 2602.22948): scale, layer and token at once.

A token of layer l at scale s is kept with P = 1 - clip(a_min + (a_max - a_min) q, 0, 1), where
q = phi(s) R(l, s) h, phi(s) = s / S, R is the share of the leading principal components, and h the token's
entropy. As printed h sums to 1 over the tokens, which makes q vanish and P nearly constant; here h is the
token's rank, uniform over [0, 1]. Counts are fixed at compile time, which tokens fill them is not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from toprovar.calibration.budget import out_of_reach, weakest
from toprovar.calibration.counts import MULTIPLE, rounded_count
from toprovar.calibration.depth_rule import fit_depth_rule
from toprovar.calibration.policy import Policy, Task
from toprovar.calibration.ranking import entropy_ranking
from toprovar.plan import DepthRule, PlanCost, ScalePlan, SparsityPlan
from toprovar.pruning import Restoration, Unconditional
from toprovar.stats import CalibrationStats

__all__ = ["POLICY", "ToProVAR"]


@dataclass(frozen=True)
class ToProVAR(Policy):
    """The formula with its constants, and a switch for each of its dimensions.

    Attributes:
        a_min: share pruned of the least prunable token.
        depths: candidates for D, counted from the last scale.
        strongest: largest a_max that the search for the budget tries.
        scale: D follows each prompt's statistic; without, every prompt is pruned from the earliest candidate on.
        layer: layers differ by their R; without, each scale's layers share the mean of theirs.
        token: entropy says which tokens are kept; without, chance does.
        standardised: heads and layers are standardised before entropies are averaged.
        selector: whose entropy ranks the tokens.
        restoration: what becomes of tokens that are not computed.
        guidance: what the unconditional half does at late scales.
        spared: how many late scales those are at most: as many as save no more than was asked for.
    """

    a_min: float = 0.0
    depths: tuple[int, ...] = (3, 2)
    strongest: float = 16.0
    scale: bool = True
    layer: bool = True
    token: bool = True
    standardised: bool = True
    selector: str = "previous_scale"
    restoration: Restoration = "identity"
    guidance: Unconditional = "omitted"
    spared: int = 3

    def __call__(self, stats: CalibrationStats, task: Task) -> SparsityPlan:
        """Finds the a_max whose cost, averaged over the calibration prompts, meets the target.

        Raises:
            UsageError: not even the strongest pruning reaches the target.
        """
        scales = len(stats.schedule)
        candidates = sorted({max(scales - back, 1) for back in self.depths})
        decided_after = candidates[0] - 1
        ratios = [prompt.low_entropy_ratio[decided_after] for prompt in stats.prompts]
        rule = fit_depth_rule(ratios, decided_after, candidates if self.scale else candidates[:1])

        own = self._sparing(stats, task, rule)

        def cost(above: float) -> float:
            return own._share(stats, task, rule, self.a_min + above)

        found = weakest(cost, self.strongest - self.a_min, task.target_flops)
        if found is None:
            why = f"the last {scales - candidates[0]} scales alone can save"
            raise out_of_reach(task.target_flops, cost(self.strongest - self.a_min), why)
        a_max = self.a_min + found
        kept = self._kept(stats, rule, a_max)
        return SparsityPlan(
            policy="toprovar",
            parameters={
                **{name: value for name, value in dataclasses.asdict(own).items() if name != "depths"},
                "depths": " ".join(map(str, self.depths)),
                "a_max": a_max,
                "target_flops": task.target_flops,
                "expected_flops": own._share(stats, task, rule, a_max),
            },
            model_sha256=stats.model_sha256,
            scales=tuple(
                ScalePlan(height, width, tuple(counts), mode)
                for (height, width), counts, mode in zip(stats.schedule, kept, own._modes(stats), strict=True)
            ),
            ranking=entropy_ranking(stats, None, self.selector if self.token else "random", self.standardised),
            restoration=self.restoration,
            depth_rule=rule if self.scale else None,
            cost=task.cost(stats.schedule, kept, own._modes(stats)),
        )

    def _sparing(self, stats: CalibrationStats, task: Task, rule: DepthRule) -> ToProVAR:
        """This policy with `spared` lowered until what it saves leaves something to prune."""
        for spared in range(self.spared if self.guidance != "full" else 0, 0, -1):
            own = dataclasses.replace(self, spared=spared)
            if own._share(stats, task, rule, self.a_min) >= task.target_flops:
                return own
        return dataclasses.replace(self, spared=0)

    def _kept(self, stats: CalibrationStats, rule: DepthRule, a_max: float) -> list[list[int]]:
        scales = len(stats.schedule)
        table = []
        for scale, (height, width) in enumerate(stats.schedule):
            tokens = height * width
            if scale < min(rule.depths):
                table.append([tokens] * stats.layers)
                continue
            rank = (np.arange(tokens) + 0.5) / tokens
            ratios = [layer.principal_component_ratio for layer in stats.scales[scale].layers]
            counts = []
            for ratio in ratios if self.layer else [float(np.mean(ratios))] * len(ratios):
                priority = (scale + 1) / scales * ratio * rank
                pruned = np.clip(self.a_min + (a_max - self.a_min) * priority, 0, 1)
                counts.append(max(rounded_count(float((1 - pruned).sum()), tokens), min(MULTIPLE, tokens)))
            table.append(counts)
        return table

    def _modes(self, stats: CalibrationStats) -> list[Unconditional]:
        scales = len(stats.schedule)
        return ["full" if scale < scales - self.spared else self.guidance for scale in range(scales)]

    def _share(self, stats: CalibrationStats, task: Task, rule: DepthRule, a_max: float) -> float:
        """FLOPs over dense, averaged over the calibration prompts' own depths."""
        kept = self._kept(stats, rule, a_max)
        costs: dict[int, PlanCost] = {}
        total = 0.0
        for prompt in stats.prompts:
            depth = rule.depth(prompt.low_entropy_ratio[rule.decided_after])
            if depth not in costs:
                table = [
                    counts if scale >= depth else [height * width] * stats.layers
                    for scale, (counts, (height, width)) in enumerate(zip(kept, stats.schedule, strict=True))
                ]
                modes = [mode if scale >= depth else "full" for scale, mode in enumerate(self._modes(stats))]
                costs[depth] = task.cost(stats.schedule, table, modes)
            total += costs[depth].ratio
        return total / len(stats.prompts)


POLICY = ToProVAR()
