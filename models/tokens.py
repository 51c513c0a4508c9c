"""The tokens of one scale in their working order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["SortedTokens", "ascending", "resize", "take"]


@dataclass(frozen=True)
class SortedTokens:
    """Residual stream and rotary table, sorted; the rows of an image share its order.

    Attributes:
        x: residual stream [R, L, C].
        rope: rotary table of the sorted tokens, [2, R, 1, L, D/2], or [2, L, D/2] in token order.
        order: position of every sorted token in the grid, [B, L]; None in token order.
        table: rotary table in token order, [2, L, D/2].
        image_of_row: [R].
    """

    x: Tensor
    rope: Tensor
    order: Tensor | None
    table: Tensor
    image_of_row: Tensor

    @classmethod
    def unsorted(cls, x: Tensor, rope: Tensor, image_of_row: Tensor) -> SortedTokens:
        """Tokens in the order of the grid."""
        return cls(x, rope, None, rope, image_of_row)

    def in_order(self, order: Tensor) -> SortedTokens:
        """Tokens in token order, sorted into `order` [B, L]."""
        return self._moved(order, order)

    def sort_by(self, values: Tensor) -> SortedTokens:
        """Sorted anew by values [B, L] of the tokens as they stand, lowest first, equal ones as they stood."""
        place = ascending(values)
        return self._moved(place, place if self.order is None else self.order.gather(1, place))

    def _moved(self, place: Tensor, order: Tensor) -> SortedTokens:
        rope = self.table[:, order[self.image_of_row]].unsqueeze(2)
        return replace(self, x=take(self.x, place[self.image_of_row]), rope=rope, order=order)

    def sorted_rows(self, x: Tensor) -> Tensor:
        """[R, L, C] in token order to the working order."""
        return x if self.order is None else take(x, self.order[self.image_of_row])

    def token_rows(self, x: Tensor) -> Tensor:
        """[R, L, C] in the working order to token order."""
        return x if self.order is None else take(x, self.order.argsort(dim=1)[self.image_of_row])

    def sorted_values(self, values: Tensor) -> Tensor:
        """[B, L] in token order to the working order."""
        return values if self.order is None else values.gather(1, self.order)

    def token_values(self, values: Tensor) -> Tensor:
        """[B, L] in the working order to token order."""
        return values if self.order is None else values.gather(1, self.order.argsort(dim=1))


def ascending(values: Tensor) -> Tensor:
    """The order [B, L] that sorts values [B, L]; of equal ones the first comes first."""
    # ONNX's TopK keeps that promise unasked, and torch exports no sort that was asked for it.
    return values.argsort(dim=1) if torch.compiler.is_exporting() else values.argsort(dim=1, stable=True)


def take(x: Tensor, order: Tensor) -> Tensor:
    """[R, L, C] rows by [R, L] positions."""
    return x.gather(1, order.unsqueeze(2).expand(-1, -1, x.shape[2]))


def resize(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Maps [..., h, w] to [..., h', w'] by matrices [h', h] and [w', w]."""
    return rows @ x @ columns.T
