"""What a policy is: statistics in, plan out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from toprovar.cost import plan_cost
from toprovar.manifest import ModelRecord
from toprovar.plan import PlanCost, SparsityPlan
from toprovar.pruning import Restoration, Unconditional
from toprovar.stats import CalibrationStats

__all__ = ["Policy", "Task"]


@dataclass(frozen=True)
class Task:
    """What a policy is asked for.

    Attributes:
        model: facts of the model.
        target_flops: transformer FLOPs to aim at, as a share of dense, averaged over the prompts.
        text_tokens: length of the text that costs are counted for.
    """

    model: ModelRecord
    target_flops: float
    text_tokens: int

    def cost(
        self,
        schedule: Sequence[tuple[int, int]],
        kept: Sequence[Sequence[int]],
        unconditional: Sequence[Unconditional] | None = None,
    ) -> PlanCost:
        """Predicted cost for one image with guidance.

        Args:
            schedule: token grids.
            kept: tokens computed, by scale and layer.
            unconditional: what the unconditional half does, by scale; None is full throughout.
        """
        tokens = [height * width for height, width in schedule]
        rows = [2] * len(tokens) if unconditional is None else [1 + (mode == "full") for mode in unconditional]
        model = self.model
        return plan_cost(model.width, model.layers, model.code_bits, tokens, kept, self.text_tokens, rows)


class Policy(ABC):
    """Decides a plan; deterministic. Its parameters are the fields of a frozen dataclass."""

    @property
    def probes(self) -> Restoration | None:
        """The restoration with which sensitivities are to be measured; None if it reads none."""
        return None

    @abstractmethod
    def __call__(self, stats: CalibrationStats, task: Task) -> SparsityPlan:
        """The plan for a task.

        Raises:
            UsageError: the target cannot be reached.
        """
