"""Depth D per prompt: how early pruning may start, from the share of low-entropy tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toprovar.plan import DepthRule

__all__ = ["LOW_BELOW", "fit_depth_rule"]

LOW_BELOW = -0.5
"""Standardised entropy under which a token counts as focused: half a deviation below the mean."""


def fit_depth_rule(ratios: Sequence[float], decided_after: int, depths: Sequence[int]) -> DepthRule:
    """Parts the calibration prompts evenly among depths.

    Many focused tokens mean much detail that late scales still have to draw, so D rises with the ratio.

    Args:
        ratios: the statistic of every calibration prompt at scale `decided_after`.
        decided_after: scale whose statistic decides.
        depths: candidate first sparse scales, ascending.
    """
    quantiles = np.quantile(np.asarray(ratios), np.arange(1, len(depths)) / len(depths))
    kept_depths = [depths[0]]
    thresholds: list[float] = []
    for threshold, depth in zip(quantiles.tolist(), depths[1:], strict=True):
        if threshold > (thresholds[-1] if thresholds else -1.0):
            thresholds.append(threshold)
            kept_depths.append(depth)
    return DepthRule("low_entropy_ratio", decided_after, LOW_BELOW, tuple(thresholds), tuple(kept_depths))
