"""The interface of a restoration, which sees every layer: the stream before, what was computed, and the inputs.

One is made for every scale, and its outputs go into the step's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from toprovar.models.tokens import SortedTokens

__all__ = ["Restoration", "computed", "rest"]


class Restoration:
    """Lets the residual stream pass through; subclasses say otherwise.

    Args:
        given: the step's inputs.
    """

    def __init__(self, given: Mapping[str, Tensor]) -> None:
        self.given = given

    def restore(self, layer: int, tokens: SortedTokens, working: Tensor, kept: int) -> SortedTokens:
        """The stream after a layer that computed `working` [R, K, C] from the first K tokens."""
        return replace(tokens, x=torch.cat([working, rest(tokens.x, kept)], dim=1))

    def reorder(self, before: SortedTokens, after: SortedTokens) -> None:
        """Told when the tokens are sorted anew."""

    def finish(self, tokens: SortedTokens) -> SortedTokens:
        """The stream before the head, in the same order."""
        return tokens

    def drawn(self, tokens: SortedTokens) -> Tensor | None:
        """1 for a token whose codes are added to the image and 0 for another, [B, L]; None if all are."""
        return None

    def outputs(self) -> tuple[Tensor, ...]:
        """Its share of the step's outputs."""
        return ()


def rest(x: Tensor, kept: int) -> Tensor:
    """What follows the first `kept` along axis 1."""
    return x.narrow(1, kept, x.shape[1] - kept)


def computed(given: Mapping[str, Tensor], tokens: SortedTokens) -> Tensor:
    """Which places of the working order the layer that keeps most tokens computed, bool [L].

    For a scale that is sorted once; where layers sort anew, what lies in those places changes.
    """
    places = torch.arange(tokens.x.shape[1], device=tokens.x.device)
    return places < given["kept"].max()
