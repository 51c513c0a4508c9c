"""Leaves out tokens at random: the control that every statistic has to beat at equal cost.

The last scales keep an equal share of their tokens, the same for every layer, and the residual stream of the others
passes through. The share is the free parameter that meets the target.
"""

from __future__ import annotations

from dataclasses import dataclass

from toprovar.calibration.policies._equal_share import EqualShare

__all__ = ["POLICY", "Random"]


@dataclass(frozen=True)
class Random(EqualShare):
    """Fields as of `EqualShare`."""

    @property
    def name(self) -> str:
        """Name of the policy."""
        return "random"

    @property
    def selector(self) -> str:
        """Chance, from each image's own noise."""
        return "random"


POLICY = Random()
