"""What calibration measured of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Literal

from toprovar.artefact import (
    Artefact,
    Count,
    Fraction,
    Index,
    NonNegative,
    Sha256,
    require_length,
)
from toprovar.conform import refuse

__all__ = [
    "CalibrationStats",
    "GuidanceSensitivity",
    "LayerSensitivity",
    "LayerStats",
    "PromptStats",
    "ScaleSensitivity",
    "ScaleStats",
]


@dataclass(frozen=True)
class LayerSensitivity(Artefact):
    """What changes when one layer at one scale, and nothing else, works on fewer tokens.

    Attributes:
        kept: Share of the scale's tokens that the layer keeps.
        kl: Mean Kullback-Leibler divergence of a bit at this scale's logits, from dense to pruned,
            in nats.
        flips: Share of this scale's bits that change under the same noise.
        later_kl: The same as `kl` at the next scale; None where not measured, and at the last.
    """

    kept: Fraction
    kl: NonNegative
    flips: Fraction
    later_kl: NonNegative | None


@dataclass(frozen=True)
class LayerStats(Artefact):
    """One layer at one scale, over all prompts and tokens.

    Entropy is that of the attention weights in nats, divided by the logarithm of the number of
    keys, so that it lies in [0, 1]; with a single key it is 0.

    Attributes:
        entropy_mean: Mean of each head.
        entropy_deviation: Standard deviation of each head.
        histogram: For each head, counts of tokens by entropy in equal bins over [0, 1].
        principal_component_ratio: Share of the leading principal components in the variance of
            the layer's output, averaged over prompts.
        principal_component_deviation: Its standard deviation over prompts.
        sensitivity: From most to fewest tokens kept; empty where not measured.
    """

    entropy_mean: tuple[Fraction, ...]
    entropy_deviation: tuple[NonNegative, ...]
    histogram: tuple[tuple[Index, ...], ...]
    principal_component_ratio: Fraction
    principal_component_deviation: NonNegative
    sensitivity: tuple[LayerSensitivity, ...] = ()

    def validate(self) -> None:
        """Checks that less is kept from one sensitivity to the next."""
        _require_descent(self.sensitivity)


@dataclass(frozen=True)
class ScaleSensitivity(Artefact):
    """What changes when all layers of one scale, and nothing else, work on the same part of its tokens.

    A token that every layer leaves out is lost once, and those that are kept stay almost exact: the damages of
    single layers do not add up to this.

    Attributes:
        kept: Share of the scale's tokens that is kept.
        kl: Mean Kullback-Leibler divergence of a bit at this scale's logits, from dense to pruned, in nats.
        flips: Share of this scale's bits that change under the same noise.
        later_kl: The same as `kl` at the next scale; None at the last.
        picture_error: Mean squared difference of the finished pictures, the later scales computed densely, as a
            share of the square of their range: 10^(-PSNR/10).
    """

    kept: Fraction
    kl: NonNegative
    flips: Fraction
    later_kl: NonNegative | None
    picture_error: NonNegative


@dataclass(frozen=True)
class GuidanceSensitivity(Artefact):
    """What changes when the unconditional half is spared from one scale on.

    Attributes:
        mode: What happens instead (`toprovar.pruning.Unconditional`).
        kl: Mean Kullback-Leibler divergence of a bit at this scale's logits, in nats, all earlier ones full.
        flips: Share of this scale's bits that change under the same noise.
        picture_error: Mean squared difference of the finished pictures where this and all later scales spare it,
            as a share of the square of their range.
    """

    mode: Literal["reused", "omitted"]
    kl: NonNegative
    flips: Fraction
    picture_error: NonNegative


@dataclass(frozen=True)
class ScaleStats(Artefact):
    """One scale.

    Attributes:
        height: Rows of tokens.
        width: Columns of tokens.
        keys: Keys that a token attends to: those of this and all earlier scales.
        layers: The layers, first to last.
        guidance: Ways to spare the unconditional half; empty where not measured.
        sensitivity: All layers alike, from most to fewest tokens kept; empty where not measured.
    """

    height: Count
    width: Count
    keys: Count
    layers: tuple[LayerStats, ...]
    guidance: tuple[GuidanceSensitivity, ...] = ()
    sensitivity: tuple[ScaleSensitivity, ...] = ()

    def validate(self) -> None:
        """Checks that less is kept from one sensitivity to the next."""
        _require_descent(self.sensitivity)


@dataclass(frozen=True)
class PromptStats(Artefact):
    """One prompt of the calibration set.

    Attributes:
        prompt: Its text.
        seed: Seed of its sampling noise.
        entropy_mean: Mean entropy over layers, heads and tokens, by scale.
        low_entropy_ratio: Share of tokens with a low standardised entropy, by scale.
        high_frequency: Mean change that a scale makes to the edges of the picture, by scale.
    """

    prompt: str
    seed: Index
    entropy_mean: tuple[Fraction, ...]
    low_entropy_ratio: tuple[Fraction, ...]
    high_frequency: tuple[NonNegative, ...]


@dataclass(frozen=True)
class CalibrationStats(Artefact):
    """Everything a policy may decide by.

    Attributes:
        model_sha256: Hash of the calibrated checkpoint.
        prompts_sha256: Hash of the prompt set.
        seed: Seed of the first prompt's sampling noise.
        schedule: Rows and columns of each scale.
        layers: Layers of the model.
        heads: Attention heads of a layer.
        scales: Measurements by scale.
        prompts: Measurements by prompt.
        seconds: Wall-clock time of each part, such as `principal components`.
    """

    schema_version: Literal[3] = dataclass_field(default=3, kw_only=True)
    model_sha256: Sha256
    prompts_sha256: Sha256
    seed: Index
    schedule: tuple[tuple[Count, Count], ...]
    layers: Count
    heads: Count
    scales: tuple[ScaleStats, ...]
    prompts: tuple[PromptStats, ...]
    seconds: Mapping[str, NonNegative]

    def validate(self) -> None:
        """Checks every table against schedule, layers and heads."""
        if not self.schedule:
            raise refuse("schedule", "a scale at least", self.schedule)
        require_length(self.scales, len(self.schedule), "scale", "scales")
        bins = self._bins()
        keys = 0
        for index, (scale, grid) in enumerate(zip(self.scales, self.schedule, strict=True)):
            where = f"scales[{index}]"
            for field, expected, got in zip(("height", "width"), grid, (scale.height, scale.width), strict=True):
                if got != expected:
                    raise refuse(f"{where}.{field}", f"{expected}, as in the schedule", got)
            keys += scale.height * scale.width
            if scale.keys != keys:
                raise refuse(f"{where}.keys", f"{keys}, the tokens so far", scale.keys)
            require_length(scale.layers, self.layers, "layer", f"{where}.layers")
            for number, layer in enumerate(scale.layers):
                self._validate_layer(layer, bins, f"{where}.layers[{number}]")
        last = f"scales[{len(self.scales) - 1}]"
        _require_no_later(self.scales[-1].sensitivity, last)
        for number, layer in enumerate(self.scales[-1].layers):
            _require_no_later(layer.sensitivity, f"{last}.layers[{number}]")
        for index, prompt in enumerate(self.prompts):
            for field in ("entropy_mean", "low_entropy_ratio", "high_frequency"):
                values = getattr(prompt, field)
                require_length(values, len(self.schedule), "scale", f"prompts[{index}].{field}")

    def _bins(self) -> int:
        """Bins of the first histogram."""
        layers = self.scales[0].layers
        return len(layers[0].histogram[0]) if layers and layers[0].histogram else 0

    def _validate_layer(self, layer: LayerStats, bins: int, where: str) -> None:
        for field in ("entropy_mean", "entropy_deviation", "histogram"):
            require_length(getattr(layer, field), self.heads, "head", f"{where}.{field}")
        for head, counts in enumerate(layer.histogram):
            require_length(counts, bins, "bin of the first histogram", f"{where}.histogram[{head}]")


def _require_descent(measured: Sequence[LayerSensitivity | ScaleSensitivity]) -> None:
    before = 1.0
    for index, one in enumerate(measured):
        if one.kept >= before:
            than = "the one before" if index else "all tokens"
            raise refuse(f"sensitivity[{index}].kept", f"a share below {before:g}, {than}", one.kept)
        before = one.kept


def _require_no_later(measured: Sequence[LayerSensitivity | ScaleSensitivity], where: str) -> None:
    for index, one in enumerate(measured):
        if one.later_kl is not None:
            raise refuse(f"{where}.sensitivity[{index}].later_kl", "null, as no scale is later", one.later_kl)
