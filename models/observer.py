"""What a recorder may watch while a model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Observer"]


class Observer(Protocol):
    """Called by a step for its layers in order, some at once; it must not change what it is given, and keeps copies."""

    def on_scale(self, scale: int) -> None:
        """A step begins; the following calls belong to it."""

    def on_attention(self, first: int, entropy: Tensor) -> None:
        """Entropy over the logarithm of the number of keys, [n, R, H, K] in [0, 1], of n layers from `first`.

        Conditional rows come first.
        """

    def on_hidden(self, first: int, hidden: Tensor) -> None:
        """Residual stream after each of the layers, [n, R, K, C]; likewise."""
