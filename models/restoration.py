"""What becomes of the tokens that a layer does not compute (`toprovar.pruning.Restoration`).

A restoration sees every layer: the stream before, the part that was computed, and the step's inputs. It is made
anew for each scale, and its outputs go into the step's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from toprovar.models.tokens import SortedTokens, resize
from toprovar.pruning import Restoration

__all__ = ["Blank", "Cached", "Identity", "make_restoration"]


class Identity:
    """The residual stream passes through."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        self.given = given

    def restore(self, layer: int, tokens: SortedTokens, working: Tensor, kept: int) -> SortedTokens:
        """The stream after a layer that computed `working` [R, K, C] from the first K tokens."""
        return replace(tokens, x=torch.cat([working, rest(tokens.x, kept)], dim=1))

    def reorder(self, before: SortedTokens, after: SortedTokens) -> None:
        """Told when the tokens are sorted anew."""

    def finish(self, tokens: SortedTokens) -> SortedTokens:
        """The stream before the head."""
        return tokens

    def drawn(self, tokens: SortedTokens) -> Tensor | None:
        """1 for a token whose codes are added to the image and 0 for another, [B, L]; None if all are."""
        return None

    def outputs(self) -> tuple[Tensor, ...]:
        """Its share of the step's outputs."""
        return ()


class Cached(Identity):
    """Each token gets the update that the layer made at the latest dense scale, resized to the grid."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        super().__init__(given)
        self._updates: list[Tensor] = []

    def restore(self, layer: int, tokens: SortedTokens, working: Tensor, kept: int) -> SortedTokens:
        """Adds the cached update to what is not computed."""
        cached = rest(tokens.sorted_rows(self._resized(layer)), kept)
        update = torch.cat([working - tokens.x.narrow(1, 0, kept), cached], dim=1)
        self._updates.append(tokens.token_rows(update))
        return replace(tokens, x=torch.cat([working, rest(tokens.x, kept) + cached], dim=1))

    def _resized(self, layer: int) -> Tensor:
        rows, columns = self.given["restore_rows"], self.given["restore_columns"]
        grid = self.given[f"update.{layer}"].transpose(1, 2).unflatten(2, (rows.shape[1], -1))
        return resize(grid, rows, columns).flatten(2).transpose(1, 2)

    def outputs(self) -> tuple[Tensor, ...]:
        """Updates of all layers in token order, [R, L, C] each."""
        return tuple(self._updates)


class Blank(Identity):
    """The residual stream passes through, and a token that no layer computes adds no codes."""

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        super().__init__(given)
        self._computed = torch.zeros_like(given["prior"])

    def restore(self, layer: int, tokens: SortedTokens, working: Tensor, kept: int) -> SortedTokens:
        """Notes what was computed."""
        computed = self._computed
        self._computed = torch.cat([torch.ones_like(computed.narrow(1, 0, kept)), rest(computed, kept)], dim=1)
        return super().restore(layer, tokens, working, kept)

    def reorder(self, before: SortedTokens, after: SortedTokens) -> None:
        """Keeps the marks with their tokens."""
        self._computed = after.sorted_values(before.token_values(self._computed))

    def drawn(self, tokens: SortedTokens) -> Tensor:
        """1 for a token that some layer computed."""
        return tokens.token_values(self._computed)


_KINDS: Mapping[Restoration, type[Identity]] = {"identity": Identity, "cached": Cached, "blank": Blank}


def make_restoration(kind: Restoration, given: Mapping[str, Tensor]) -> Identity:
    """One scale's restoration."""
    return _KINDS[kind](given)


def rest(x: Tensor, kept: int) -> Tensor:
    """What follows the first `kept` along axis 1."""
    return x.narrow(1, kept, x.shape[1] - kept)
