"""StepVAR (arXiv 2603.01757): leaves out tokens of little texture and little structure. An interpretation.

Neither the paper's text nor code was available: an abstract names the two criteria and nearest-neighbour propagation,
and a summary says that quality falls visibly beyond about 70 % pruning. Everything else is inferred: the score
(`toprovar.models.selectors.structure_texture`), the propagation (`toprovar.models.restorations.nearest`), the last
three scales, an equal share for each, one selection a scale for all layers. The share is the free parameter that
meets the target, down to 30 % kept and no further.
"""

from __future__ import annotations

from dataclasses import dataclass

from toprovar.calibration.policies._equal_share import EqualShare
from toprovar.pruning import Restoration

__all__ = ["POLICY", "StepVAR"]


@dataclass(frozen=True)
class StepVAR(EqualShare):
    """Fields as of `EqualShare`."""

    most_pruned: float = 0.7
    restoration: Restoration = "nearest"

    @property
    def name(self) -> str:
        """Name of the policy."""
        return "stepvar"

    @property
    def selector(self) -> str:
        """Both criteria joined."""
        return "structure_texture"


POLICY = StepVAR()
