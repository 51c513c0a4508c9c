"""The interface of a selector: values by which tokens are sorted, lowest first.

A selector may speak three times at a scale. Images are sorted one by one; the two rows of a guidance pair share
one order, so what it sees are the conditional rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["Selector"]


class Selector:
    """Keeps the order that the host gave, lowest carried value first; subclasses say otherwise.

    One is made for every scale. Whatever it is shown and returns is in the tokens' working order, unless said
    otherwise.

    Args:
        depth: number of layers.
        given: the step's inputs.
    """

    def __init__(self, depth: int, given: Mapping[str, Tensor]) -> None:
        self.depth = depth
        self.given = given

    def at_start(self, x: Tensor) -> Tensor | None:
        """Before the first layer: embedded tokens [B, L, C] in token order to values [B, L], or None."""
        return None

    def before_layer(self, layer: int, x: Tensor) -> Tensor | None:
        """Before a layer: its input [B, L, C] to values [B, L], or None."""
        return None

    def after_layer(self, layer: int, x: Tensor) -> None:
        """After a layer: its output [B, L, C]."""

    def after_observer(self, seen: Tensor) -> Tensor | None:
        """After an observer layer: mean of this scale's standardised entropies so far to values, both in token order.

        Args:
            seen: [B, L].
        """
        return None

    def carried(self) -> Tensor | None:
        """Values [B, L] by which the next scale is to be sorted; None hands on the entropy."""
        return None
