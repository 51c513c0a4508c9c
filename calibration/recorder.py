"""Measures entropy and principal components of every scale, layer and head while a model generates one image.

What is kept of a scale while it runs: the entropies of its layers and a bounded number of Gram matrices. When it
ends, they become sums, counts and ratios, one call each for all layers and heads; on a GPU beside the next scale.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from toprovar.calibration.part_clock import PartClock
from toprovar.calibration.principal_components import TOGETHER_TO, centred_grams, leading_ratios_of
from toprovar.calibration.recording import HISTOGRAM_BINS, Recording
from toprovar.calibration.side_work import SideWork
from toprovar.errors import CheckpointError

__all__ = ["EntropyRecorder"]

_GRAM_BYTES, _GPU_GRAM_BYTES = 256 << 20, 1 << 30
"""Gram matrices that wait for their eigenvalues, at most: 64 of width 720 or 8 of width 2048, on a GPU 32."""

_TOKEN_BYTES = 512 << 20
"""Tokens in float64 that become Gram matrices at once: of width 2048 8 layers of 4096."""


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
        self._clock = PartClock(("entropy", "components"))
        self._beside = SideWork(self._clock)
        self._forget()

    def on_scale(self, scale: int) -> None:
        """Ends the scale before and begins another.

        Raises:
            CheckpointError: the model computes infinities or NaN. A GPU may tell one scale later.
        """
        if scale == 0:
            self._forget()
        else:
            self._end_scale()
        self._scale = scale

    def on_attention(self, first: int, entropy: Tensor) -> None:
        """Takes relative entropy [n, R, H, K] of the layers from `first`.

        Raises:
            ValueError: not every head and token of the scale is there.
        """
        expected = self._heads, self._tokens[self._scale]
        if entropy.shape[2:] != expected:
            raise ValueError(f"entropy of {tuple(entropy.shape[2:])} heads and tokens; expected {expected}")
        with self._clock.measure("entropy", entropy.device):
            # a copy, since the step's memory may be used again before the scale ends
            self._entropies.append((range(first, first + len(entropy)), entropy[:, 0].double()))

    def on_hidden(self, first: int, hidden: Tensor) -> None:
        """Takes the residual stream [n, R, K, C] after the layers from `first`.

        Raises:
            CheckpointError: the model computes infinities or NaN; asked once for many layers, since asking waits for
                a GPU.
        """
        tokens, width = hidden.shape[2:]
        gram_bytes = 8 * min(tokens, width) ** 2
        limit = _GPU_GRAM_BYTES if hidden.is_cuda else _GRAM_BYTES
        together = max(1, min(limit // gram_bytes, _TOKEN_BYTES // (8 * tokens * width)))
        for begin in range(0, len(hidden), together):
            some = hidden[begin : begin + together, 0]
            with self._clock.measure("components", hidden.device):
                layers = range(first + begin, first + begin + len(some))
                self._grams.append(_Waiting(self._scale, layers, *centred_grams(some)))
            if sum(one.grams.nbytes for one in self._grams) + len(some) * gram_bytes > limit:
                self._solve()

    def recording(self) -> Recording:
        """What the generation showed, which is then forgotten.

        Raises:
            ValueError: a scale or layer was never seen.
            CheckpointError: the model computes infinities or NaN.
        """
        self._end_scale()
        if self._grams:
            self._solve()
        self._beside.finish()
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
        self._beside.forget()
        self._clock.clear()
        shape = len(self._tokens), self._layers, self._heads
        self._sum = np.full(shape, np.nan)
        self._square = np.full(shape, np.nan)
        self._histogram = np.zeros((*shape, HISTOGRAM_BINS), dtype=np.int32)
        self._ratio = np.full(shape[:2], np.nan)
        self._entropies: list[tuple[range, Tensor]] = []
        self._grams: list[_Waiting] = []
        self._scale = 0

    def _end_scale(self) -> None:
        if self._entropies:
            entropies, self._entropies = self._entropies, []
            self._beside.do("entropy", partial(self._count, self._scale, entropies), entropies[0][1].device)
        # Small ones of several scales are one batch on a GPU.
        if any(not one.grams.is_cuda or one.grams.shape[1] > TOGETHER_TO for one in self._grams):
            self._solve()

    def _solve(self) -> None:
        waiting, self._grams = self._grams, []
        self._beside.do("components", partial(self._explain, waiting), waiting[0].grams.device)

    def _count(self, scale: int, entropies: Sequence[tuple[range, Tensor]]) -> None:
        """Sums and histograms of all layers of a scale at once."""
        layers = [layer for some, _ in entropies for layer in some]
        # Rounding may lead a hair out of the range that entropies are defined to have; NaN stays.
        values = torch.cat([some for _, some in entropies]).clamp(0, 1)
        sums = values.sum(2).cpu().numpy()
        if not np.isfinite(sums).all():
            raise _not_finite(f"attention of layer {layers[int(np.argmin(np.isfinite(sums).all(1)))]}", scale)
        self._sum[scale, layers] = sums
        self._square[scale, layers] = values.square().sum(2).cpu().numpy()
        bins = (values * HISTOGRAM_BINS).long().clamp_max(HISTOGRAM_BINS - 1)
        rows = len(layers) * self._heads
        bins += torch.arange(rows, device=bins.device).reshape(len(layers), -1, 1) * HISTOGRAM_BINS
        counts = torch.bincount(bins.flatten(), minlength=rows * HISTOGRAM_BINS).cpu().numpy()
        self._histogram[scale, layers] = counts.reshape(len(layers), self._heads, HISTOGRAM_BINS)

    def _explain(self, waiting: Sequence[_Waiting]) -> None:
        """Ratios of layers whose Gram matrices waited."""
        batches = []
        for scale, parts in itertools.groupby(waiting, lambda one: one.scale):
            own = list(parts)
            layers = [layer for one in own for layer in one.layers]
            batches.append(
                (scale, layers, torch.cat([one.grams for one in own]), torch.cat([one.energies for one in own]))
            )
        finite = torch.isfinite(torch.cat([energies for *_, energies in batches])).tolist()
        if not all(finite):
            places = [(scale, layer) for scale, layers, *_ in batches for layer in layers]
            scale, layer = places[finite.index(False)]
            raise _not_finite(f"layer {layer}", scale)
        ratios = leading_ratios_of([(grams, energies) for *_, grams, energies in batches])
        for (scale, layers, *_), own_ratios in zip(batches, ratios, strict=True):
            self._ratio[scale, layers] = own_ratios.cpu().numpy()


@dataclass(frozen=True)
class _Waiting:
    """Gram matrices [n, m, m] and energies [n] of some layers of a scale."""

    scale: int
    layers: range
    grams: Tensor
    energies: Tensor


def _not_finite(what: str, scale: int) -> CheckpointError:
    return CheckpointError(
        f"{what} computes numbers that are not finite at scale {scale}; expected a trained model",
        "give another checkpoint",
    )
