"""Ranks by the mean of the previous scale's attention entropy and this scale's own, once an observer has run."""

from __future__ import annotations

from torch import Tensor

from toprovar.models.selectors.base import Selector

__all__ = ["SELECTOR"]


class _BothScales(Selector):
    def after_observer(self, seen: Tensor) -> Tensor:
        return (self.given["prior"] + seen) / 2


SELECTOR = _BothScales
