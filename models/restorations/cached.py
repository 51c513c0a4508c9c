"""Each token gets the update that the layer made at the latest dense scale, resized to the grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from toprovar.models.restorations.base import Restoration, rest
from toprovar.models.tokens import SortedTokens, resize

__all__ = ["RESTORATION"]


class _Cached(Restoration):
    def __init__(self, given: Mapping[str, Tensor]) -> None:
        super().__init__(given)
        self._updates: list[Tensor] = []

    def restore(self, layer: int, tokens: SortedTokens, working: Tensor, kept: int) -> SortedTokens:
        cached = rest(tokens.sorted_rows(self._resized(layer)), kept)
        update = torch.cat([working - tokens.x.narrow(1, 0, kept), cached], dim=1)
        self._updates.append(tokens.token_rows(update))
        return replace(tokens, x=torch.cat([working, rest(tokens.x, kept) + cached], dim=1))

    def _resized(self, layer: int) -> Tensor:
        rows, columns = self.given["restore_rows"], self.given["restore_columns"]
        grid = self.given[f"update.{layer}"].transpose(1, 2).unflatten(2, (rows.shape[1], -1))
        return resize(grid, rows, columns).flatten(2).transpose(1, 2)

    def outputs(self) -> tuple[Tensor, ...]:
        return tuple(self._updates)


RESTORATION = _Cached
