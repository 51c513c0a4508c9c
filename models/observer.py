"""What a recorder may watch while a model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Observer"]


class Observer(Protocol):
    """Called by a step for every layer; it must not change what it is given, and keeps copies only."""

    def on_scale(self, scale: int) -> None:
        """A step begins; the following calls belong to it."""

    def on_attention(self, layer: int, entropy: Tensor) -> None:
        """Entropy over the logarithm of the number of keys, [R, H, K] in [0, 1]; conditional rows come first."""

    def on_hidden(self, layer: int, hidden: Tensor) -> None:
        """Residual stream after the layer, [R, K, C]; likewise."""
