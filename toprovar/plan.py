"""The sparsity plan: what a compiled model computes, per scale and layer."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Literal

from toprovar.artefact import (
    Artefact,
    Count,
    Index,
    NonNegative,
    Positive,
    Sha256,
    require_length,
)
from toprovar.conform import refuse
from toprovar.errors import ArtefactError
from toprovar.extensions import RESTORATIONS, SELECTORS, STATISTICS
from toprovar.pruning import ENTROPY_SELECTORS, Pruning, Restoration, Unconditional

__all__ = ["DepthRule", "PlanCost", "Ranking", "ScalePlan", "SparsityPlan"]


@dataclass(frozen=True)
class ScalePlan(Artefact):
    """One scale of the schedule.

    Attributes:
        height: Rows of tokens.
        width: Columns of tokens.
        kept: Tokens that each layer computes when this scale runs sparse: all of them (dense),
            some of them, or 0 where the layer is left out.
        unconditional: What the unconditional half of a guidance batch computes; `full` is the
            same as the conditional half, and what holds where this scale runs dense
            (`toprovar.pruning.Unconditional`).
    """

    height: Count
    width: Count
    kept: tuple[int, ...]
    unconditional: Unconditional = "full"

    @property
    def tokens(self) -> int:
        """Tokens of the whole grid."""
        return self.height * self.width

    @property
    def is_dense(self) -> bool:
        """Whether every layer computes every token."""
        return all(kept == self.tokens for kept in self.kept)

    def validate(self) -> None:
        """Checks each count against the grid."""
        if not self.kept:
            raise refuse("kept", "a count for each layer", self.kept)
        for layer, kept in enumerate(self.kept):
            if not 0 <= kept <= self.tokens:
                raise refuse(f"kept[{layer}]", f"an integer from 0 to {self.tokens}", kept)


@dataclass(frozen=True)
class Ranking(Artefact):
    """Where the order of the tokens comes from.

    Attention entropy of an observer layer is divided by the logarithm of its number of keys and
    standardised with the calibration's moments; heads and observers are then averaged.

    Attributes:
        selector: What ranks the tokens (a file of `toprovar.models.selectors`); `none` ranks
            nothing, so that a layer computes all tokens or none.
        observers: Layers whose attention entropy is observed, ascending.
        mean: Mean of the normalised entropy, by scale, observer and head; empty without observers.
        deviation: Its standard deviation, of the same shape.
    """

    selector: str
    observers: tuple[Index, ...] = ()
    mean: tuple[tuple[tuple[float, ...], ...], ...] = ()
    deviation: tuple[tuple[tuple[Positive, ...], ...], ...] = ()

    @property
    def heads(self) -> int | None:
        """Heads of an observer, None without observers."""
        return len(self.mean[0][0]) if self.observers else None

    def validate(self) -> None:
        """Checks that observers ascend and that the tables are rectangular and alike."""
        for first, second in itertools.pairwise(self.observers):
            if first >= second:
                raise ArtefactError(f"expected ascending layers, got {second} after {first}", field="observers")
        known = (*SELECTORS.names(), "none")
        if self.selector not in known:
            raise refuse("selector", f"one of {', '.join(known)}", self.selector)
        if self.selector in ENTROPY_SELECTORS and not self.observers:
            raise refuse("observers", f"a layer at least, to rank by {self.selector!r}", ())
        heads = len(self.mean[0][0]) if self.observers and self.mean and self.mean[0] else 0
        for field, table in (("mean", self.mean), ("deviation", self.deviation)):
            require_length(table, len(self.mean) if self.observers else 0, "scale", field)
            for scale, rows in enumerate(table):
                require_length(rows, len(self.observers), "observer", f"{field}[{scale}]")
                for row, values in enumerate(rows):
                    require_length(values, max(heads, 1), "head", f"{field}[{scale}][{row}]")


@dataclass(frozen=True)
class DepthRule(Artefact):
    """Decides for each prompt the first scale that runs sparse.

    Attributes:
        statistic: What is measured: a file of `toprovar.runtime.statistics`.
        decided_after: Scale whose statistic decides, counted from 0; it and all before run dense.
        low_below: Standardised entropy under which a token counts as low; None where the
            statistic looks at no entropy.
        thresholds: Ascending values of the statistic that part the depths.
        depths: One more than the thresholds, each above `decided_after`, rising or falling
            throughout: the statistic's place among the thresholds picks the depth.
    """

    statistic: str
    decided_after: Index
    low_below: float | None
    thresholds: tuple[float, ...]
    depths: tuple[Index, ...]

    @property
    def needs_entropy(self) -> bool:
        """Whether the statistic reads the attention entropy of the deciding scale."""
        return bool(STATISTICS.load(self.statistic).needs_entropy)

    def depth(self, value: float) -> int:
        """The first scale that runs sparse; a value equal to a threshold counts as above it.

        Args:
            value: The statistic of one prompt, from 0 to the largest that it can be.
        """
        largest = STATISTICS.load(self.statistic).largest
        if not (0.0 <= value <= largest and math.isfinite(value)):
            raise ValueError(f"expected a finite number from 0 to {largest:g}, got {value}")
        return self.depths[bisect.bisect_right(self.thresholds, value)]

    def validate(self) -> None:
        """Checks the statistic, that thresholds ascend and that depths are monotone and late enough."""
        if self.statistic not in STATISTICS.names():
            raise refuse("statistic", f"one of {', '.join(STATISTICS.names())}", self.statistic)
        if self.needs_entropy != (self.low_below is not None):
            expected = "a number" if self.needs_entropy else "null"
            raise refuse("low_below", f"{expected} for the statistic {self.statistic!r}", self.low_below)
        for index, (first, second) in enumerate(itertools.pairwise(self.thresholds), start=1):
            if first >= second:
                raise ArtefactError(f"expected a number above {first}, got {second}", field=f"thresholds[{index}]")
        if len(self.depths) != len(self.thresholds) + 1:
            raise refuse("depths", f"{len(self.thresholds) + 1} depths", self.depths)
        for index, depth in enumerate(self.depths):
            if depth <= self.decided_after:
                raise refuse(f"depths[{index}]", f"an integer above {self.decided_after}", depth)
        if list(self.depths) not in (sorted(self.depths), sorted(self.depths, reverse=True)):
            raise ArtefactError(
                f"expected depths that rise or fall throughout, got {', '.join(map(str, self.depths))}",
                field="depths",
            )


@dataclass(frozen=True)
class PlanCost(Artefact):
    """Predicted transformer FLOPs of one image with guidance (see `toprovar.cost`).

    Attributes:
        dense_flops: With every scale dense.
        sparse_flops: With every scale at its kept counts.
        per_scale_dense: `dense_flops` by scale.
        per_scale_sparse: `sparse_flops` by scale.
    """

    dense_flops: Positive
    sparse_flops: NonNegative
    per_scale_dense: tuple[NonNegative, ...]
    per_scale_sparse: tuple[NonNegative, ...]

    @property
    def ratio(self) -> float:
        """Sparse FLOPs over dense FLOPs."""
        return self.sparse_flops / self.dense_flops

    def validate(self) -> None:
        """Checks that the scales add up and that none costs more sparse than dense."""
        require_length(self.per_scale_sparse, len(self.per_scale_dense), "scale", "per_scale_sparse")
        for field, total, parts in (
            ("dense_flops", self.dense_flops, self.per_scale_dense),
            ("sparse_flops", self.sparse_flops, self.per_scale_sparse),
        ):
            if not math.isclose(total, math.fsum(parts), rel_tol=1e-9):
                raise refuse(field, f"the sum of its scales, {math.fsum(parts)}", total)
        pairs = zip(self.per_scale_dense, self.per_scale_sparse, strict=True)
        for scale, (dense, sparse) in enumerate(pairs):
            if sparse > dense * (1 + 1e-9):
                raise refuse(f"per_scale_sparse[{scale}]", f"at most the dense {dense}", sparse)


@dataclass(frozen=True)
class SparsityPlan(Artefact):
    """What to compute of a model, as one policy decided it.

    Attributes:
        policy: Name of the policy.
        parameters: The policy's parameters, for the record.
        model_sha256: Hash of the checkpoint that the plan was made for.
        scales: The schedule, coarse to fine.
        ranking: Which tokens a layer computes when it computes some of them.
        restoration: What becomes of the others (a file of `toprovar.models.restorations`).
        depth_rule: Decides where a prompt's sparse scales begin; None for the first scale.
        cost: Predicted cost.
    """

    schema_version: Literal[2] = dataclass_field(default=2, kw_only=True)
    policy: str
    parameters: Mapping[str, bool | int | float | str]
    model_sha256: Sha256
    scales: tuple[ScalePlan, ...]
    ranking: Ranking
    restoration: Restoration
    depth_rule: DepthRule | None
    cost: PlanCost

    @property
    def layers(self) -> int:
        """Layers of the model."""
        return len(self.scales[0].kept)

    @property
    def is_dense(self) -> bool:
        """Whether every layer computes every token of every scale, with guidance throughout."""
        return all(scale.is_dense and scale.unconditional == "full" for scale in self.scales)

    @property
    def pruning(self) -> Pruning:
        """What of this plan is fixed in its graphs."""
        return Pruning(
            self.ranking.selector,
            self.ranking.observers,
            self.restoration,
            any(scale.unconditional == "reused" for scale in self.scales),
        )

    def unconditional(self, scale: int, depth: int = 0) -> Unconditional:
        """What the unconditional half of a guidance batch does; arguments as of `kept`."""
        return self.scales[scale].unconditional if scale >= depth else "full"

    def kept(self, scale: int, depth: int = 0) -> tuple[int, ...]:
        """Tokens that each layer computes.

        Args:
            scale: Index of the scale, from 0.
            depth: The first scale that runs sparse, as `DepthRule.depth` gives it.
        """
        plan = self.scales[scale]
        return plan.kept if scale >= depth else (plan.tokens,) * len(plan.kept)

    def validate(self) -> None:
        """Checks scales, ranking, depth rule and cost against one another."""
        if not self.scales:
            raise refuse("scales", "a scale at least", self.scales)
        if self.restoration not in RESTORATIONS.names():
            raise refuse("restoration", f"one of {', '.join(RESTORATIONS.names())}", self.restoration)
        for index, scale in enumerate(self.scales):
            require_length(scale.kept, self.layers, "layer", f"scales[{index}].kept")
            if index and scale.unconditional == "full" != self.scales[index - 1].unconditional:
                before = self.scales[index - 1].unconditional
                expected = f"reused or omitted, as the scale before is {before} and leaves no keys"
                raise refuse(f"scales[{index}].unconditional", expected, "full")
            if index == 0 or self.ranking.selector == "none":
                self._require_all_or_none(index, scale)
        if self.ranking.observers:
            require_length(self.ranking.mean, len(self.scales), "scale", "ranking.mean")
            if self.ranking.observers[-1] >= self.layers:
                last = len(self.ranking.observers) - 1
                raise refuse(
                    f"ranking.observers[{last}]",
                    f"an integer from 0 to {self.layers - 1}",
                    self.ranking.observers[-1],
                )
        if self.depth_rule is not None:
            self._validate_depth_rule(self.depth_rule)
        else:
            self._require_keys()
        require_length(self.cost.per_scale_dense, len(self.scales), "scale", "cost.per_scale_dense")

    def _require_all_or_none(self, index: int, scale: ScalePlan) -> None:
        why = "at the first scale" if index == 0 else "without a ranking"
        for layer, kept in enumerate(scale.kept):
            if kept not in (0, scale.tokens):
                expected = f"0 or {scale.tokens} {why}"
                raise refuse(f"scales[{index}].kept[{layer}]", expected, kept)

    def _require_keys(self) -> None:
        """Entropy is that of a softmax, which needs a key; later scales see the first one's."""
        first = self.scales[0]
        for layer in self.ranking.observers:
            if first.kept[layer] == 0:
                raise refuse(f"scales[0].kept[{layer}]", f"{first.tokens}, since the layer is observed", 0)

    def _validate_depth_rule(self, rule: DepthRule) -> None:
        if rule.needs_entropy and not self.ranking.observers:
            raise refuse("ranking.observers", "a layer at least, for the depth rule", ())
        for index, depth in enumerate(rule.depths):
            if depth > len(self.scales):
                raise refuse(
                    f"depth_rule.depths[{index}]",
                    f"at most the number of scales, {len(self.scales)}",
                    depth,
                )
