"""Which layers observe attention entropy at run time, and how it is standardised."""

from __future__ import annotations

from toprovar.plan import Ranking
from toprovar.stats import CalibrationStats

__all__ = ["entropy_ranking"]

_SMALLEST_DEVIATION = 1e-3


def entropy_ranking(stats: CalibrationStats, observers: tuple[int, ...] | None = None) -> Ranking:
    """Ranking by the previous scale's entropy, with moments from calibration.

    Args:
        stats: the calibration.
        observers: layers to observe; None takes one at a half and one at three quarters of the depth, where
            attention is neither still positional nor already about single bits.
    """
    if observers is None:
        observers = tuple(sorted({stats.layers // 2, (3 * stats.layers) // 4}))
    mean = tuple(tuple(scale.layers[layer].entropy_mean for layer in observers) for scale in stats.scales)
    deviation = tuple(
        tuple(
            tuple(max(value, _SMALLEST_DEVIATION) for value in scale.layers[layer].entropy_deviation)
            for layer in observers
        )
        for scale in stats.scales
    )
    return Ranking("previous_scale", observers, mean, deviation)
