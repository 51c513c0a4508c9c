"""Anchors: a coarse grid of tokens that stand for their neighbours (SparseVAR, arXiv 2507.20454).

Along each axis every fourth token is one, and the last; both numbers are those of the implementation that
docs/peers.md names.
"""

from __future__ import annotations

__all__ = ["ANCHOR_SIMILARITY", "ANCHOR_STEP", "anchor_count"]

ANCHOR_STEP = 4
"""Tokens from one anchor to the next."""

ANCHOR_SIMILARITY = 0.8
"""Cosine above which an anchor may stand for a token."""


def anchor_count(size: int) -> int:
    """Anchors along an axis of `size` tokens: 0, 4, 8, ... and the last."""
    # Of a symbolic size, too: whole division alone.
    return (size + ANCHOR_STEP - 2) // ANCHOR_STEP + 1
