"""Rank correlation, as every study that compares orders uses it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["spearman"]


def spearman(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Spearman's correlation of two series, equal values sharing their mean rank.

    A series that is constant orders nothing, and counts as uncorrelated.

    Raises:
        ValueError: the series differ in length, or are empty.
    """
    from scipy.stats import spearmanr

    one, other = np.asarray(first, np.float64).ravel(), np.asarray(second, np.float64).ravel()
    if len(one) != len(other) or not len(one):
        raise ValueError(f"{len(one)} and {len(other)} values; expected as many, and one at least")
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)
