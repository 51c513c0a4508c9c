"""What pruning one layer at one scale, and nothing else, does to the logits: what a search allocates by.

Everything is paired: the pruned run has the prompt, the noise and the past of the dense one. The distance of a bit
is the Kullback-Leibler divergence of its two Bernoulli distributions, from dense to pruned. Averaged over the tokens
of a scale it is weighted by area, so that scales compare by what they do to the picture; summed over scales and
tokens it would be the divergence of the whole sample, to first order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from toprovar.pruning import Unconditional
from toprovar.stats import CalibrationStats, GuidanceSensitivity, LayerSensitivity

__all__ = [
    "KEPT",
    "MODES",
    "Attempt",
    "SensitivityRecord",
    "Trial",
    "bernoulli_divergence",
    "measure_sensitivity",
    "token_divergence",
    "with_sensitivity",
]

KEPT = (0.5, 0.25, 0.0)
"""Shares of tokens that are tried; 0 leaves the layer out."""

_LATER_AT = 0.5
"""The share at which the next scale is looked at, too."""

MODES: tuple[Literal["reused", "omitted"], ...] = ("reused", "omitted")
"""Ways to spare the unconditional half that are tried."""


class Attempt(Protocol):
    """A scale, computed in one way."""

    @property
    def differences(self) -> np.ndarray:
        """Logit of 1 less that of 0 for every bit, [tokens, bits]."""

    def next_differences(self) -> np.ndarray:
        """The same at the next scale, computed densely after this."""


class Trial(Protocol):
    """A scale of a dense generation that can be computed in several ways before the generation goes on."""

    @property
    def scale(self) -> int:
        """Its index."""

    @property
    def tokens(self) -> int:
        """Its tokens."""

    @property
    def noise(self) -> np.ndarray:
        """Sampling noise [tokens, bits]."""

    @property
    def certain(self) -> float:
        """The logit difference from which a bit is not drawn."""

    @property
    def last(self) -> bool:
        """Whether no scale follows."""

    def attempt(self, kept: Sequence[int], unconditional: Unconditional = "full") -> Attempt:
        """Computes the scale with these counts a layer."""


@dataclass(frozen=True, eq=False)
class SensitivityRecord:
    """One prompt; NaN where not measured. Shapes [scales, layers, kept shares] and [scales, modes].

    Attributes:
        kl: mean divergence of a bit at the pruned scale.
        flips: share of bits that change.
        later_kl: mean divergence of a bit at the next scale.
        unconditional_kl: mean divergence of a bit where the unconditional half is spared.
        unconditional_flips: share of bits that change there.
        seconds: wall-clock of all of it.
    """

    kl: np.ndarray
    flips: np.ndarray
    later_kl: np.ndarray
    unconditional_kl: np.ndarray
    unconditional_flips: np.ndarray
    seconds: float = 0.0


def bernoulli_divergence(true: np.ndarray, other: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence in nats between Bernoulli distributions of logits `true` and `other`."""
    return float(max(np.mean(_divergences(true, other)), 0.0))


def token_divergence(true: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The same token by token: logits [tokens, bits] to float64 [tokens]."""
    return np.maximum(_divergences(true, other).mean(1), 0.0)


def _divergences(true: np.ndarray, other: np.ndarray) -> np.ndarray:
    first, second = true.astype(np.float64), other.astype(np.float64)
    probability = 1 / (1 + np.exp(-np.clip(first, -700, 700)))
    ones = np.logaddexp(0, -second) - np.logaddexp(0, -first)
    zeros = np.logaddexp(0, second) - np.logaddexp(0, first)
    return probability * ones + (1 - probability) * zeros


def measure_sensitivity(
    trials: Iterable[Trial], scales: int, layers: int, first_scale: int, guided: bool
) -> SensitivityRecord:
    """Tries every layer of every scale from `first_scale` on.

    Args:
        trials: the scales of one generation, in order.
        scales: number of scales.
        layers: number of layers.
        first_scale: earlier ones are not tried.
        guided: there are unconditional rows to spare.
    """
    kl, flips, later = (np.full((scales, layers, len(KEPT)), np.nan) for _ in range(3))
    spared, spared_flips = (np.full((scales, len(MODES)), np.nan) for _ in range(2))
    for trial in trials:
        if trial.scale < first_scale:
            continue
        every = [trial.tokens] * layers
        dense = trial.attempt(every)
        dense_bits = _bits(dense.differences, trial)
        dense_next = None if trial.last else dense.next_differences()
        for layer in range(layers):
            for index, share in enumerate(KEPT):
                kept = [*every[:layer], int(share * trial.tokens), *every[layer + 1 :]]
                pruned = trial.attempt(kept)
                at = trial.scale, layer, index
                kl[at] = bernoulli_divergence(dense.differences, pruned.differences)
                flips[at] = np.mean(dense_bits != _bits(pruned.differences, trial))
                if share == _LATER_AT and dense_next is not None:
                    later[at] = bernoulli_divergence(dense_next, pruned.next_differences())
        for index, mode in enumerate(MODES if guided else ()):
            other = trial.attempt(every, mode).differences
            spared[trial.scale, index] = bernoulli_divergence(dense.differences, other)
            spared_flips[trial.scale, index] = np.mean(dense_bits != _bits(other, trial))
    return SensitivityRecord(kl, flips, later, spared, spared_flips)


def with_sensitivity(stats: CalibrationStats, records: Sequence[SensitivityRecord]) -> CalibrationStats:
    """The statistics with the means of what was measured."""
    kl, flips, later = (
        np.mean([getattr(record, name) for record in records], axis=0) for name in ("kl", "flips", "later_kl")
    )
    spared, spared_flips = (
        np.mean([getattr(record, name) for record in records], axis=0)
        for name in ("unconditional_kl", "unconditional_flips")
    )

    def of_layer(scale: int, layer: int) -> tuple[LayerSensitivity, ...]:
        if np.isnan(kl[scale, layer]).any():
            return ()
        return tuple(
            LayerSensitivity(
                share, float(kl[scale, layer, i]), float(flips[scale, layer, i]), _known(later[scale, layer, i])
            )
            for i, share in enumerate(KEPT)
        )

    scales = []
    for index, scale in enumerate(stats.scales):
        layers = (replace(layer, sensitivity=of_layer(index, number)) for number, layer in enumerate(scale.layers))
        guidance = tuple(
            GuidanceSensitivity(mode, float(value), float(changed))
            for mode, value, changed in zip(MODES, spared[index], spared_flips[index], strict=True)
            if not np.isnan(value)
        )
        scales.append(replace(scale, layers=tuple(layers), guidance=guidance))
    return replace(stats, scales=tuple(scales))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _bits(differences: np.ndarray, trial: Trial) -> np.ndarray:
    """As `toprovar.models.step.sample_bits` draws them."""
    drawn = np.where(np.abs(differences) >= trial.certain, differences, differences + trial.noise)
    return drawn > 0
