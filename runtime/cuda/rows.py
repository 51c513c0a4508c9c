"""Which tokens of a scale a layer computes, and the residual stream that they are taken from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Rows"]


@dataclass(frozen=True)
class Rows:
    """The first `kept` tokens of every image in its order.

    Rows of the stream are images one after the other, each as its conditional row and, with guidance, its
    unconditional one.

    Attributes:
        images: number of images B.
        halves: rows an image, 1 or 2.
        tokens: tokens of the scale, L.
        kept: tokens that are computed, K.
        order: positions in the grid, int64 [B, L], most important first; None for the order of the grid.
    """

    images: int
    halves: int
    tokens: int
    kept: int
    order: Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows R of the stream."""
        return self.images * self.halves

    @property
    def everything(self) -> bool:
        """Whether the tokens are those of the grid, in its order."""
        return self.order is None and self.kept == self.tokens

    def same(self, other: Rows) -> bool:
        """Whether both name the same tokens in the same order."""
        return self.kept == other.kept and self.order is other.order

    def index(self) -> Tensor | None:
        """Positions of the computed tokens by row, int64 [R, K]; None for the order of the grid."""
        if self.order is None:
            return None
        return self.order[:, : self.kept].repeat_interleave(self.halves, 0)

    def rest(self) -> Tensor | None:
        """Positions of the other tokens by row, int64 [R, L - K]; None for all tokens in the grid's order."""
        if self.order is None:
            return None
        return self.order[:, self.kept :].repeat_interleave(self.halves, 0)

    def take(self, x: Tensor) -> Tensor:
        """The computed tokens [R, K, C] of a stream [R, L, C]."""
        index = self.index()
        if index is None:
            return x[:, : self.kept]
        return x.gather(1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))

    def put(self, x: Tensor, values: Tensor) -> None:
        """Writes the computed tokens [R, K, C] into a stream [R, L, C]."""
        index = self.index()
        if index is None:
            x[:, : self.kept] = values
        else:
            x.scatter_(1, index.unsqueeze(2).expand(-1, -1, x.shape[2]), values.to(x.dtype))

    def image_of_row(self, device: torch.device) -> Tensor:
        """int64 [R]."""
        return torch.arange(self.rows, device=device) // self.halves
