"""Which layers observe attention entropy at run time, and how it is standardised."""

from __future__ import annotations

from toprovar.plan import Ranking
from toprovar.stats import CalibrationStats

__all__ = ["entropy_ranking"]

_SMALLEST_DEVIATION = 1e-3


def entropy_ranking(
    stats: CalibrationStats,
    observers: tuple[int, ...] | None = None,
    selector: str = "previous_scale",
    standardised: bool = True,
) -> Ranking:
    """Ranking by attention entropy, with moments from calibration.

    Args:
        stats: the calibration.
        observers: layers to observe; None takes one at a half and one at three quarters of the depth, where
            attention is neither still positional nor already about single bits.
        selector: whose entropy ranks: ``previous_scale``, ``own_scale``, ``both_scales``; others do not use it.
        standardised: by mean and deviation of each scale, layer and head; without, entropies are averaged as they
            are, in units of the logarithm of the number of keys.
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
    if not standardised:
        mean, deviation = (
            tuple(tuple((value,) * stats.heads for _ in observers) for _ in stats.scales) for value in (0.0, 1.0)
        )
    return Ranking(selector, observers, mean, deviation)
