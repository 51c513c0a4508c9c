"""Global and Detail layers: ToProVAR's taxonomy (Chen et al., ICLR 2026, arXiv 2602.22948).

The paper parts layers by R(l, s), the share of the leading principal components in the variance of a layer's
output, into Global and Detail ones, and prints neither a threshold nor code. Here the threshold is the median of R
over the layers of a scale, so that scales compare: above it few directions explain the tokens, which thus vary in what
they share (Global); below it many directions are needed, which thus vary one by one (Detail).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

__all__ = ["THRESHOLD", "LayerKind", "layer_kinds"]

LayerKind = Literal["global", "detail"]

THRESHOLD = "the median of R over the layers of a scale"
"""What parts the two, in words."""


def layer_kinds(ratios: Sequence[float]) -> tuple[LayerKind | None, ...]:
    """The kind of every layer at one scale.

    Args:
        ratios: R of each layer at this scale.

    Returns:
        `global` for R above the median and `detail` for all others; None throughout where no layer differs from
        another, as at a scale of a single token.
    """
    if not ratios or min(ratios) == max(ratios):
        return (None,) * len(ratios)
    median = statistics.median(ratios)
    return tuple("global" if ratio > median else "detail" for ratio in ratios)
