"""Kept counts that matrix units like."""

from __future__ import annotations

__all__ = ["MULTIPLE", "rounded_count"]

MULTIPLE = 8


def rounded_count(exact: float, tokens: int) -> int:
    """The nearest multiple of `MULTIPLE`, at least one; or all tokens, or none, if that is nearer.

    The whole grid and the layer that is left out are sizes of their own, whether or not they are multiples.

    Args:
        exact: tokens to keep, from 0 to `tokens`.
        tokens: tokens of the grid.
    """
    multiple = min(max(round(exact / MULTIPLE) * MULTIPLE, MULTIPLE), tokens)
    return min((tokens, multiple, 0), key=lambda count: abs(exact - count))
