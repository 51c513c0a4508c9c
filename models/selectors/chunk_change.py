"""Ranks by what some layers in the middle changed at the scale before; anchors always come first.

SparseVAR (arXiv 2507.20454), by the implementation that docs/peers.md names: D_i = mean over channels of
(x_after - x_before)^2 across the fourth eighth of the layers (12 to 15 of 32); measured at the scale before, the
largest are kept. A token that is excluded does not change, so that its D is 0.

Deviations:
- D is carried over to the grid bilinearly (published: nearest), as everything is that a scale hands on;
- the conditional row alone is measured (published: the mean of both rows of a guidance pair);
- anchors (`toprovar.anchors`) come first whatever the batch (published: in a batch of several images only).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from toprovar.models.grid import is_anchor
from toprovar.models.selectors.base import Selector

__all__ = ["SELECTOR"]

_EIGHTH = 3
"""The measured eighth of the layers, counted from 0."""


class _ChunkChange(Selector):
    def __init__(self, depth: int, given: Mapping[str, Tensor]) -> None:
        super().__init__(depth, given)
        self._first = _EIGHTH * depth // 8
        self._last = max((_EIGHTH + 1) * depth // 8 - 1, self._first)
        self._change = torch.zeros_like(given["prior"])

    def at_start(self, x: Tensor) -> Tensor:
        prior = self.given["prior"]
        spread = prior.amax(1, keepdim=True) - prior.amin(1, keepdim=True)
        return torch.where(is_anchor(self.given), prior - spread - 1, prior)

    def before_layer(self, layer: int, x: Tensor) -> None:
        if layer == self._first:
            self._before = x

    def after_layer(self, layer: int, x: Tensor) -> None:
        if layer == self._last:
            self._change = (x - self._before).square().mean(2)

    def carried(self) -> Tensor:
        return -self._change


SELECTOR = _ChunkChange
