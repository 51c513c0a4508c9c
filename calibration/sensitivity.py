"""What pruning does to the logits and to the picture: what a search allocates by.

Two questions are asked of each late scale. What does one layer lose when it, and nothing else, works on fewer tokens?
And what is lost when all layers work on the same part? The second is no sum of the first: a token that every layer
leaves out is lost once, and the others stay almost exact.

Everything is paired: the pruned run has the prompt, the noise and the past of the dense one. The distance of a bit
is the Kullback-Leibler divergence of its two Bernoulli distributions, from dense to pruned. Averaged over the tokens
of a scale it is weighted by area. It says little across scales, since what one scale draws differently a later one
may mend; so whole scales are also compared by the finished picture, everything later computed densely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from toprovar.pruning import Unconditional
from toprovar.stats import CalibrationStats, GuidanceSensitivity, LayerSensitivity, ScaleSensitivity

__all__ = [
    "LAYER_KEPT",
    "MODES",
    "SCALE_KEPT",
    "Attempt",
    "LayerRecord",
    "ScaleRecord",
    "Trial",
    "bernoulli_divergence",
    "measure_layers",
    "measure_scales",
    "picture_error",
    "token_divergence",
    "with_sensitivity",
]

LAYER_KEPT = (0.5, 0.25, 0.0)
"""Shares of tokens that a single layer is tried with; 0 leaves it out."""

SCALE_KEPT = (0.75, 0.5, 0.25, 0.0)
"""Shares of tokens that a whole scale is tried with; 0 leaves it out."""

_LATER_AT = 0.5
"""The share of a single layer at which the next scale is looked at, too."""

MODES: tuple[Literal["reused", "omitted"], ...] = ("reused", "omitted")
"""Ways to spare the unconditional half that are tried."""


class Attempt(Protocol):
    """A scale, computed in one way."""

    @property
    def differences(self) -> np.ndarray:
        """Logit of 1 less that of 0 for every bit, [tokens, bits]."""

    def next_differences(self) -> np.ndarray:
        """The same at the next scale, computed densely after this."""

    def picture(self) -> np.ndarray:
        """The image [3, height, width] in [-1, 1] with all later scales computed densely.

        Unconditional rows that this scale has spared stay away.
        """


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
class LayerRecord:
    """One prompt, layer by layer, [scales, layers, `LAYER_KEPT`]; NaN where not measured.

    Attributes:
        kl: mean divergence of a bit at the pruned scale.
        flips: share of bits that change.
        later_kl: mean divergence of a bit at the next scale.
        seconds: wall-clock of all of it.
    """

    kl: np.ndarray
    flips: np.ndarray
    later_kl: np.ndarray
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class ScaleRecord:
    """One prompt, whole scales, [scales, `SCALE_KEPT` and then `MODES`]; NaN where not measured.

    Attributes:
        kl: mean divergence of a bit at the scale.
        flips: share of bits that change.
        later_kl: mean divergence of a bit at the next scale.
        picture_error: mean squared difference of the pictures over the square of their range.
        seconds: wall-clock of all of it.
    """

    kl: np.ndarray
    flips: np.ndarray
    later_kl: np.ndarray
    picture_error: np.ndarray
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


def picture_error(picture: np.ndarray, other: np.ndarray) -> float:
    """Mean squared difference of two images in [-1, 1] over the square of that range: 10^(-PSNR/10)."""
    return float(np.mean(np.square(picture.astype(np.float64) - other))) / 4


def measure_layers(trials: Iterable[Trial], scales: int, layers: int, first_scale: int) -> LayerRecord:
    """Tries every layer of every scale from `first_scale` on, alone.

    Args:
        trials: the scales of one generation, in order.
        scales: number of scales.
        layers: number of layers.
        first_scale: earlier ones are not tried.
    """
    kl, flips, later = (np.full((scales, layers, len(LAYER_KEPT)), np.nan) for _ in range(3))
    for trial in trials:
        if trial.scale < first_scale:
            continue
        every = [trial.tokens] * layers
        dense = trial.attempt(every)
        for layer in range(layers):
            for index, share in enumerate(LAYER_KEPT):
                kept = [*every[:layer], int(share * trial.tokens), *every[layer + 1 :]]
                pruned = trial.attempt(kept)
                at = trial.scale, layer, index
                kl[at], flips[at] = _distance(trial, dense, pruned)
                if share == _LATER_AT and not trial.last:
                    later[at] = bernoulli_divergence(dense.next_differences(), pruned.next_differences())
    return LayerRecord(kl, flips, later)


def measure_scales(trials: Iterable[Trial], scales: int, layers: int, first_scale: int, guided: bool) -> ScaleRecord:
    """Tries every scale from `first_scale` on as a whole, and what sparing the unconditional half does from it on.

    Args:
        trials: the scales of one generation, in order.
        scales: number of scales.
        layers: number of layers.
        first_scale: earlier ones are not tried.
        guided: there are unconditional rows to spare.
    """
    shape = scales, len(SCALE_KEPT) + len(MODES)
    kl, flips, later, error = (np.full(shape, np.nan) for _ in range(4))
    picture: np.ndarray | None = None
    for trial in trials:
        if trial.scale < first_scale:
            continue
        every = [trial.tokens] * layers
        dense = trial.attempt(every)
        picture = dense.picture() if picture is None else picture
        for index, attempt in enumerate(_attempts(trial, every, guided)):
            at = trial.scale, index
            kl[at], flips[at] = _distance(trial, dense, attempt)
            if not trial.last and index < len(SCALE_KEPT):
                later[at] = bernoulli_divergence(dense.next_differences(), attempt.next_differences())
            error[at] = picture_error(attempt.picture(), picture)
    return ScaleRecord(kl, flips, later, error)


def _attempts(trial: Trial, every: Sequence[int], guided: bool) -> Iterator[Attempt]:
    """One after the other: each holds the caches of the scales that it went on to."""
    for share in SCALE_KEPT:
        yield trial.attempt([int(share * trial.tokens)] * len(every))
    if guided:
        for mode in MODES:
            yield trial.attempt(every, mode)


def with_sensitivity(
    stats: CalibrationStats, layers: Sequence[LayerRecord], scales: Sequence[ScaleRecord]
) -> CalibrationStats:
    """The statistics with the means of what was measured."""
    single = _mean(layers, ("kl", "flips", "later_kl"))
    whole = _mean(scales, ("kl", "flips", "later_kl", "picture_error"))

    def of_layer(scale: int, layer: int) -> tuple[LayerSensitivity, ...]:
        rows = zip(LAYER_KEPT, *(single[name][scale, layer] for name in ("kl", "flips", "later_kl")), strict=True)
        return tuple(
            LayerSensitivity(share, float(kl), float(flips), _known(later))
            for share, kl, flips, later in rows
            if not np.isnan(kl)
        )

    made = []
    for index, scale in enumerate(stats.scales):
        kl, flips, later, error = (whole[name][index] for name in ("kl", "flips", "later_kl", "picture_error"))
        alike = tuple(
            ScaleSensitivity(share, float(kl[i]), float(flips[i]), _known(later[i]), float(error[i]))
            for i, share in enumerate(SCALE_KEPT)
            if not np.isnan(kl[i])
        )
        guidance = tuple(
            GuidanceSensitivity(mode, float(kl[i]), float(flips[i]), float(error[i]))
            for i, mode in enumerate(MODES, len(SCALE_KEPT))
            if not np.isnan(kl[i])
        )
        own = (replace(layer, sensitivity=of_layer(index, number)) for number, layer in enumerate(scale.layers))
        made.append(replace(scale, layers=tuple(own), guidance=guidance, sensitivity=alike))
    return replace(stats, scales=tuple(made))


def _mean(records: Sequence[LayerRecord] | Sequence[ScaleRecord], names: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: np.mean([getattr(record, name) for record in records], axis=0) for name in names}


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _distance(trial: Trial, dense: Attempt, other: Attempt) -> tuple[float, float]:
    """Divergence of a bit, and the share of bits that change."""
    flipped = np.mean(_bits(dense.differences, trial) != _bits(other.differences, trial))
    return bernoulli_divergence(dense.differences, other.differences), float(flipped)


def _bits(differences: np.ndarray, trial: Trial) -> np.ndarray:
    """As `toprovar.models.step.sample_bits` draws them."""
    drawn = np.where(np.abs(differences) >= trial.certain, differences, differences + trial.noise)
    return drawn > 0
