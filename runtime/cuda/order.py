"""The order of a scale's tokens while its layers run, kept as positions: the tokens themselves stay where they are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from toprovar.extensions import SELECTORS
from toprovar.models.selectors.base import Selector
from toprovar.runtime.cuda.layers import Stream
from toprovar.runtime.cuda.ops import PlainOps

__all__ = ["TokenOrder", "hands_on_more"]


def hands_on_more(selector: str) -> bool:
    """Whether a selector, or ``none``, hands on something else than the entropy."""
    return selector != "none" and SELECTORS.load(selector).carried is not Selector.carried


class TokenOrder:
    """Sorts tokens as a selector says.

    Args:
        selector: its name, or ``none``.
        given: what selectors read of a step's inputs.
        kept: tokens that each layer computes.
        halves: rows an image.
        ops: how to compute.

    Attributes:
        positions: in the grid, most important first, int64 [B, L]; None in the grid's order.
    """

    def __init__(
        self, selector: str, given: Mapping[str, Tensor], kept: tuple[int, ...], halves: int, ops: PlainOps
    ) -> None:
        self._type: type[Selector] = Selector if selector == "none" else SELECTORS.load(selector)
        self._selector = self._type(len(kept), given)
        self._given, self._kept, self._halves, self._ops = given, kept, halves, ops
        self._tokens = given["prior"].shape[1]
        self._fused = {"deviation": ops.deviation}.get(selector)
        self._sorts = any(0 < count < self._tokens for count in kept)
        self.positions: Tensor | None = None

    def start(self, stream: Stream) -> None:
        """Sorts before the first layer, by the embedded tokens or by what was carried over."""
        if self._sorts:
            values = self._selector.at_start(self._conditional(stream.x)) if self._speaks("at_start") else None
            self.positions = self._ops.order(self._given["prior"] if values is None else values)

    def before_layer(self, layer: int, stream: Stream) -> None:
        """Lets the selector see a layer's input."""
        if self._fused is not None:
            if 0 < self._kept[layer] < self._tokens:
                self.positions = self._ops.order(self._fused(self._conditional(stream.x)))
        elif self._speaks("before_layer"):
            self._sort(self._selector.before_layer(layer, self._working(stream.x)))

    def after_layer(self, layer: int, stream: Stream) -> None:
        """Lets the selector see a layer's output."""
        if self._speaks("after_layer"):
            self._selector.after_layer(layer, self._working(stream.x))

    def after_observer(self, scores: list[Tensor]) -> None:
        """Lets the selector see this scale's standardised entropies so far, [B, L] each, in the grid's order."""
        if self.positions is None or not self.observes:
            return
        values = self._selector.after_observer(torch.stack(scores).mean(0))
        self._sort(None if values is None else values.gather(1, self.positions))

    def carried(self) -> Tensor | None:
        """What the selector hands on instead of the entropy, [B, L] in the grid's order."""
        values = self._selector.carried()
        if values is None or self.positions is None:
            return values
        return values.new_empty(values.shape).scatter_(1, self.positions, values)

    @property
    def observes(self) -> bool:
        """Whether the selector reads this scale's own entropy."""
        return self._speaks("after_observer")

    def _speaks(self, method: str) -> bool:
        return getattr(self._type, method) is not getattr(Selector, method)

    def _sort(self, values: Tensor | None) -> None:
        """Sorts by values [B, L] of the tokens as they stand."""
        if values is not None and self.positions is not None:
            self.positions = self.positions.gather(1, self._ops.order(values))

    def _conditional(self, x: Tensor) -> Tensor:
        return x[:: self._halves]

    def _working(self, x: Tensor) -> Tensor:
        """A copy, which a selector may keep, of the conditional rows in the order of the tokens."""
        x = self._conditional(x)
        if self.positions is None:
            return x.clone()
        return x.gather(1, self.positions.unsqueeze(2).expand(-1, -1, x.shape[2]))
