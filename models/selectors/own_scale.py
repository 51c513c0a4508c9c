"""Ranks by this scale's own attention entropy from the first observer layer on, and by the previous one before."""

from __future__ import annotations

from torch import Tensor

from toprovar.models.selectors.base import Selector

__all__ = ["SELECTOR"]


class _OwnScale(Selector):
    def after_observer(self, seen: Tensor) -> Tensor:
        return seen


SELECTOR = _OwnScale
