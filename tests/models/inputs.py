"""The inputs of a step that selectors and restorations read, on a small grid."""

from __future__ import annotations

import torch
from torch import Tensor

from toprovar.models.tokens import SortedTokens

__all__ = ["make_given", "make_tokens"]


def make_given(height: int, width: int, images: int = 1, kept: tuple[int, ...] = ()) -> dict[str, Tensor]:
    tokens = height * width
    return {
        "rope": torch.zeros(2, tokens, 1),
        "carry_rows": torch.eye(height),
        "carry_columns": torch.eye(width),
        "prior": torch.zeros(images, tokens),
        "kept": torch.tensor(kept),
    }


def make_tokens(given: dict[str, Tensor], order: Tensor, x: Tensor) -> SortedTokens:
    """Rows of `x` [R, L, C], given in token order, in the order [B, L]; one row an image, or two."""
    rows = torch.arange(len(x)) % len(order)
    return SortedTokens.unsorted(x, given["rope"], rows).in_order(order)
