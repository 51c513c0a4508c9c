"""The residual stream passes through, and a token that no layer computes adds no codes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from toprovar.models.restorations.base import Restoration, rest
from toprovar.models.tokens import SortedTokens

__all__ = ["RESTORATION"]


class _Blank(Restoration):
    def __init__(self, given: Mapping[str, Tensor]) -> None:
        super().__init__(given)
        self._computed = torch.zeros_like(given["prior"])

    def restore(self, layer: int, tokens: SortedTokens, working: Tensor, kept: int) -> SortedTokens:
        computed = self._computed
        self._computed = torch.cat([torch.ones_like(computed.narrow(1, 0, kept)), rest(computed, kept)], dim=1)
        return super().restore(layer, tokens, working, kept)

    def reorder(self, before: SortedTokens, after: SortedTokens) -> None:
        self._computed = after.sorted_values(before.token_values(self._computed))

    def drawn(self, tokens: SortedTokens) -> Tensor:
        return tokens.token_values(self._computed)


RESTORATION = _Blank
