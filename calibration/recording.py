"""What one dense generation of a prompt showed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["HISTOGRAM_BINS", "Observation", "Recording"]

HISTOGRAM_BINS = 32
"""Equal bins of relative entropy over [0, 1]."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Every scale, layer and head of one image. A scale's sums and counts are over all of its tokens.

    Attributes:
        entropy_sum: relative entropy, float64 [scales, layers, heads].
        entropy_square: its squares, likewise.
        histogram: tokens by relative entropy, int32 [scales, layers, heads, `HISTOGRAM_BINS`].
        principal_component_ratio: share of the leading principal components, float64 [scales, layers].
        generation_seconds: wall-clock of the generation without the two below; 0 where nobody measured it.
        entropy_seconds: how long summing and counting entropies held it up. Little on a GPU, which does it beside.
        principal_component_seconds: the same of Gram matrices and eigenvalues.
    """

    entropy_sum: np.ndarray
    entropy_square: np.ndarray
    histogram: np.ndarray
    principal_component_ratio: np.ndarray
    generation_seconds: float = 0.0
    entropy_seconds: float = 0.0
    principal_component_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Observation:
    """What a deployment would see of one prompt, generated densely.

    Attributes:
        low_entropy_ratio: share of tokens with a low standardised entropy, float64 [scales].
        high_frequency: mean change that a scale makes to the edges of the picture, float64 [scales].
        seconds: wall-clock.
    """

    low_entropy_ratio: np.ndarray
    high_frequency: np.ndarray
    seconds: float
