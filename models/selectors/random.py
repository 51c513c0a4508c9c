"""Ranks at random: the control that every statistic has to beat."""

from __future__ import annotations

from torch import Tensor

from toprovar.models.selectors.base import Selector

__all__ = ["SELECTOR"]

_SPREAD = 4096.0
"""A power of two, so that every backend gets the same values."""


class _Random(Selector):
    def at_start(self, x: Tensor) -> Tensor:
        # Low digits of the sampling noise: each image's own generator, and nothing of the noise's size.
        spread = self.given["noise"][:, :, 0] * _SPREAD
        return spread - spread.floor()


SELECTOR = _Random
