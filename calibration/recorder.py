"""Collects entropy and principal components of every scale and layer while a model generates.

Everything is a running sum, so that memory does not grow with the number of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from toprovar.calibration.principal_components import leading_ratio
from toprovar.errors import CheckpointError
from toprovar.stats import LayerStats, ScaleStats

__all__ = ["HISTOGRAM_BINS", "EntropyRecorder"]

HISTOGRAM_BINS = 32


class EntropyRecorder:
    """An observer of a dense step (`toprovar.models.observer.Observer`).

    Args:
        schedule: token grid of every scale.
        layers: number of blocks.
        heads: attention heads of a block.
    """

    def __init__(self, schedule: Sequence[tuple[int, int]], layers: int, heads: int) -> None:
        self._schedule = tuple(schedule)
        scales = len(self._schedule)
        self._count = np.zeros((scales, layers))
        self._sum = np.zeros((scales, layers, heads))
        self._square = np.zeros((scales, layers, heads))
        self._histogram = np.zeros((scales, layers, HISTOGRAM_BINS), dtype=np.int64)
        self._ratio = np.zeros((scales, layers))
        self._passes = np.zeros((scales, layers))
        self._scale = 0

    def on_scale(self, scale: int) -> None:
        """Notes which scale the following calls belong to."""
        self._scale = scale

    def on_attention(self, layer: int, entropy: Tensor) -> None:
        """Adds relative entropy [R, H, K]; only the conditional rows, the first half, count."""
        values = entropy[: max(len(entropy) // 2, 1)].double()
        at = self._scale, layer
        self._count[at] += values.shape[0] * values.shape[2]
        self._sum[at] += values.sum((0, 2)).cpu().numpy()
        self._square[at] += values.square().sum((0, 2)).cpu().numpy()
        bins = (values.mean(1).flatten() * HISTOGRAM_BINS).long().clamp(0, HISTOGRAM_BINS - 1)
        self._histogram[at] += torch.bincount(bins, minlength=HISTOGRAM_BINS).cpu().numpy()

    def on_hidden(self, layer: int, hidden: Tensor) -> None:
        """Adds the principal-component ratio of the first row of [R, K, C].

        Raises:
            CheckpointError: the model computes infinities or NaN.
        """
        if not torch.isfinite(hidden[0]).all():
            raise CheckpointError(
                f"layer {layer} computes numbers that are not finite at scale {self._scale}; expected a trained model",
                "give another checkpoint",
            )
        at = self._scale, layer
        self._ratio[at] += leading_ratio(hidden[0])
        self._passes[at] += 1

    def scales(self) -> tuple[ScaleStats, ...]:
        """The measurements so far.

        Raises:
            ValueError: a scale or layer was never seen.
        """
        if not self._count.all():
            raise ValueError("not every scale and layer was observed; run at least one generation")
        mean = self._sum / self._count[..., None]
        deviation = np.sqrt(np.maximum(self._square / self._count[..., None] - mean**2, 0))
        ratio = self._ratio / self._passes
        keys, result = 0, []
        for scale, (height, width) in enumerate(self._schedule):
            keys += height * width
            layers = tuple(
                LayerStats(
                    entropy_mean=tuple(np.clip(mean[scale, layer], 0, 1).tolist()),
                    entropy_deviation=tuple(deviation[scale, layer].tolist()),
                    histogram=tuple(self._histogram[scale, layer].tolist()),
                    principal_component_ratio=float(np.clip(ratio[scale, layer], 0, 1)),
                    sensitivity=None,
                )
                for layer in range(self._count.shape[1])
            )
            result.append(ScaleStats(height, width, keys, layers))
        return tuple(result)
