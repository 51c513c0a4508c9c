"""Measures entropy and principal components of every scale, layer and head while a model generates one image.

What is kept of a scale while it runs: the entropies of its layers and a bounded number of Gram matrices. When it
ends, they become sums, counts and ratios, one call each for all layers and heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from toprovar.calibration.part_clock import PartClock
from toprovar.calibration.principal_components import centred_gram, leading_ratios
from toprovar.calibration.recording import HISTOGRAM_BINS, Recording
from toprovar.errors import CheckpointError

__all__ = ["EntropyRecorder"]

_GRAM_BYTES, _GPU_GRAM_BYTES = 256 << 20, 1 << 30
"""Gram matrices that wait for their eigenvalues, at most: 64 of width 720 or 8 of width 2048, on a GPU 32."""


class EntropyRecorder:
    """An observer of a dense step (`toprovar.models.observer.Observer`), for one image at a time.

    Of the rows it is shown, the first counts: the conditional one. A generation begins with scale 0, which
    forgets what an earlier one left behind, and ends with `recording`.

    Args:
        schedule: token grid of every scale.
        layers: number of blocks.
        heads: attention heads of a block.
    """

    def __init__(self, schedule: Sequence[tuple[int, int]], layers: int, heads: int) -> None:
        self._tokens = [height * width for height, width in schedule]
        self._layers, self._heads = layers, heads
        self._forget()

    def on_scale(self, scale: int) -> None:
        """Ends the scale before and begins another."""
        if scale == 0:
            self._forget()
        else:
            self._end_scale()
        self._scale = scale

    def on_attention(self, layer: int, entropy: Tensor) -> None:
        """Takes relative entropy [R, H, K].

        Raises:
            ValueError: not every head and token of the scale is there.
        """
        expected = self._heads, self._tokens[self._scale]
        if entropy.shape[1:] != expected:
            raise ValueError(f"entropy of {tuple(entropy.shape[1:])} heads and tokens; expected {expected}")
        with self._clock.measure("entropy", entropy):
            # a copy, since the step's memory may be used again before the scale ends
            self._entropies[layer] = entropy[0].double()

    def on_hidden(self, layer: int, hidden: Tensor) -> None:
        """Takes the residual stream [R, K, C].

        Raises:
            CheckpointError: the model computes infinities or NaN; asked once for many layers, since asking waits for
                a GPU.
        """
        with self._clock.measure("components", hidden):
            gram, energy = centred_gram(hidden[0])
            self._grams[layer] = gram, energy
            if gram.nbytes * (len(self._grams) + 1) > (_GPU_GRAM_BYTES if gram.is_cuda else _GRAM_BYTES):
                self._solve()

    def recording(self) -> Recording:
        """What the generation showed, which is then forgotten.

        Raises:
            ValueError: a scale or layer was never seen.
            CheckpointError: the model computes infinities or NaN.
        """
        self._end_scale()
        if np.isnan(self._sum).any() or np.isnan(self._ratio).any():
            raise ValueError("not every scale and layer was observed; run one whole dense generation")
        result = Recording(
            self._sum,
            self._square,
            self._histogram,
            self._ratio,
            entropy_seconds=self._clock.seconds("entropy"),
            principal_component_seconds=self._clock.seconds("components"),
        )
        self._forget()
        return result

    def _forget(self) -> None:
        shape = len(self._tokens), self._layers, self._heads
        self._sum = np.full(shape, np.nan)
        self._square = np.full(shape, np.nan)
        self._histogram = np.zeros((*shape, HISTOGRAM_BINS), dtype=np.int32)
        self._ratio = np.full(shape[:2], np.nan)
        self._entropies: dict[int, Tensor] = {}
        self._grams: dict[int, tuple[Tensor, Tensor]] = {}
        self._clock = PartClock(("entropy", "components"))
        self._scale = 0

    def _end_scale(self) -> None:
        if self._entropies:
            with self._clock.measure("entropy", next(iter(self._entropies.values()))):
                self._count()
        if self._grams:
            with self._clock.measure("components", next(iter(self._grams.values()))[0]):
                self._solve()

    def _count(self) -> None:
        """Sums and histograms of all layers of the scale at once."""
        layers = list(self._entropies)
        # Rounding may lead a hair out of the range that entropies are defined to have; NaN stays.
        values = torch.stack(list(self._entropies.values())).clamp(0, 1)
        self._entropies.clear()
        sums = values.sum(2).cpu().numpy()
        if not np.isfinite(sums).all():
            raise self._not_finite(f"attention of layer {layers[int(np.argmin(np.isfinite(sums).all(1)))]}")
        self._sum[self._scale, layers] = sums
        self._square[self._scale, layers] = values.square().sum(2).cpu().numpy()
        bins = (values * HISTOGRAM_BINS).long().clamp_max(HISTOGRAM_BINS - 1)
        rows = len(layers) * self._heads
        bins += torch.arange(rows, device=bins.device).reshape(len(layers), -1, 1) * HISTOGRAM_BINS
        counts = torch.bincount(bins.flatten(), minlength=rows * HISTOGRAM_BINS).cpu().numpy()
        self._histogram[self._scale, layers] = counts.reshape(len(layers), self._heads, HISTOGRAM_BINS)

    def _solve(self) -> None:
        """Ratios of the layers whose Gram matrices wait."""
        layers = list(self._grams)
        grams, energies = zip(*self._grams.values(), strict=True)
        self._grams.clear()
        together = torch.stack(energies)
        finite = torch.isfinite(together).tolist()
        if not all(finite):
            raise self._not_finite(f"layer {layers[finite.index(False)]}")
        self._ratio[self._scale, layers] = leading_ratios(torch.stack(grams), together).cpu().numpy()

    def _not_finite(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{what} computes numbers that are not finite at scale {self._scale}; expected a trained model",
            "give another checkpoint",
        )
