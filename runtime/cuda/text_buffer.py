"""Where the text of a slot's images lies: as keys and values, or folded into the products around the attention to it.

Scores of a query ``x Wq`` with the keys k of a head are ``x (Wq k)``, and what the attention gives, ``(p v) Wo``, is
``p (v Wo)``. With fewer text tokens than a head has channels, the products in brackets, made once a prompt, are smaller
than Wq and Wo and are used in their place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["FoldedText", "KeptText", "TextForm"]

_FOLDED = (16, 24, 32, 48, 64)
"""Token counts of folded texts; few, because each makes graphs of its own."""


class TextForm(NamedTuple):
    """How the text of one image is kept; a matter of the image alone, so that it does not depend on its batch.

    Attributes:
        tokens: it is padded to these.
        folded: as products, not as keys and values.
    """

    tokens: int
    folded: bool

    @classmethod
    def of(cls, length: int, head_dim: int, multiple: int) -> TextForm:
        """The form of texts of up to `length` tokens; longer ones than are folded take a multiple of `multiple`."""
        for tokens in _FOLDED:
            if length <= tokens < head_dim:
                return cls(tokens, True)
        return cls(-(-length // multiple) * multiple, False)


@dataclass(frozen=True)
class KeptText:
    """Keys and values of some rows.

    Attributes:
        keys: [R, T, H, D].
        values: likewise.
        lengths: text tokens of every row, int32 [R], of any stride.
        bias: [R, 1, 1, T], 0 for a token and the most negative number for padding.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor
    bias: Tensor

    @classmethod
    def make(cls, layers: int, rows: int, tokens: int, heads: int, dim: int, like: Tensor) -> KeptText:
        """A buffer of all layers; the keys and values of one lie side by side with the others'."""
        both = like.new_zeros(rows, tokens, layers, 2, heads, dim)
        lengths = torch.ones(rows, dtype=torch.int32, device=like.device)
        return cls(both[:, :, :, 0], both[:, :, :, 1], lengths, like.new_zeros(rows, 1, 1, tokens))

    def layer(self, layer: int) -> KeptText:
        """One of a buffer's."""
        return KeptText(self.keys[:, :, layer], self.values[:, :, layer], self.lengths, self.bias)

    def rows(self, rows: slice) -> KeptText:
        """Those of some rows."""
        return KeptText(self.keys[rows], self.values[rows], self.lengths[rows], self.bias[rows])


@dataclass(frozen=True)
class FoldedText:
    """Products of some rows; in a buffer of all layers, layers come after rows.

    Attributes:
        keys: by head and token, what a score multiplies the channels by, [R, H * T, C].
        values: by head and token, what is given for it, [R, H * T, C]; the bias of the output is in it.
        bias: fp32 [R, H, T], added to scores over the square root of D; minus infinity for padding.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor

    @classmethod
    def make(cls, layers: int, rows: int, tokens: int, heads: int, dim: int, like: Tensor) -> FoldedText:
        """A buffer of all layers."""
        keys, values = (like.new_zeros(rows, layers, heads * tokens, heads * dim) for _ in range(2))
        return cls(keys, values, torch.zeros(rows, layers, heads, tokens, device=like.device))

    def layer(self, layer: int) -> FoldedText:
        """One of a buffer's."""
        return FoldedText(self.keys[:, layer], self.values[:, layer], self.bias[:, layer])

    def rows(self, rows: slice) -> FoldedText:
        """Those of some rows."""
        return FoldedText(self.keys[rows], self.values[rows], self.bias[rows])
