"""Adds up recordings, one at a time and in order, into what policies read of scales and layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toprovar.calibration.recording import HISTOGRAM_BINS, Recording
from toprovar.stats import LayerStats, ScaleStats

__all__ = ["Fold"]


class Fold:
    """Running sums over prompts: of one size, however many are added.

    Only elementwise arithmetic in the prompts' order: the same recordings give the same bits everywhere.

    Args:
        schedule: token grid of every scale.
        layers: number of blocks.
        heads: attention heads of a block.
    """

    def __init__(self, schedule: Sequence[tuple[int, int]], layers: int, heads: int) -> None:
        self._schedule = tuple(schedule)
        shape = len(self._schedule), layers, heads
        self._prompts = 0
        self._sum = np.zeros(shape)
        self._square = np.zeros(shape)
        self._histogram = np.zeros((*shape, HISTOGRAM_BINS), dtype=np.int64)
        self._ratio = np.zeros(shape[:2])
        self._ratio_spread = np.zeros(shape[:2])

    def add(self, recording: Recording) -> None:
        """Adds one prompt's."""
        self._prompts += 1
        self._sum += recording.entropy_sum
        self._square += recording.entropy_square
        self._histogram += recording.histogram
        # Welford's update, as equal ratios should deviate by exactly 0.
        change = recording.principal_component_ratio - self._ratio
        self._ratio += change / self._prompts
        self._ratio_spread += change * (recording.principal_component_ratio - self._ratio)

    def entropy_mean(self) -> np.ndarray:
        """Mean relative entropy over prompts and tokens, float64 [scales, layers, heads]."""
        return np.clip(self._sum / self._count(), 0, 1)

    def scales(self) -> tuple[ScaleStats, ...]:
        """The statistics of what was added, without sensitivities.

        Raises:
            ValueError: nothing was added.
        """
        if not self._prompts:
            raise ValueError("statistics of no prompt; expected one at least")
        mean = self.entropy_mean()
        deviation = np.sqrt(np.maximum(self._square / self._count() - mean**2, 0))
        ratio_deviation = np.sqrt(np.maximum(self._ratio_spread, 0) / self._prompts)
        keys, result = 0, []
        for scale, (height, width) in enumerate(self._schedule):
            keys += height * width
            layers = tuple(
                LayerStats(
                    entropy_mean=tuple(mean[scale, layer].tolist()),
                    entropy_deviation=tuple(deviation[scale, layer].tolist()),
                    histogram=tuple(map(tuple, self._histogram[scale, layer].tolist())),
                    principal_component_ratio=float(np.clip(self._ratio[scale, layer], 0, 1)),
                    principal_component_deviation=float(ratio_deviation[scale, layer]),
                )
                for layer in range(mean.shape[1])
            )
            result.append(ScaleStats(height, width, keys, layers))
        return tuple(result)

    def _count(self) -> np.ndarray:
        """Tokens of each scale over all prompts, [scales, 1, 1]."""
        tokens = [self._prompts * height * width for height, width in self._schedule]
        return np.array(tokens, dtype=np.float64)[:, None, None]
