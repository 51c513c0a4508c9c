"""What calibration measured of a model."""

from __future__ import annotations

from collections.abc import Mapping
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

__all__ = ["CalibrationStats", "LayerStats", "PromptStats", "ScaleStats"]


@dataclass(frozen=True)
class LayerStats(Artefact):
    """One layer at one scale, over all prompts and tokens.

    Entropy is that of the attention weights in nats, divided by the logarithm of the number of
    keys, so that it lies in [0, 1]; with a single key it is 0.

    Attributes:
        entropy_mean: Mean of each head.
        entropy_deviation: Standard deviation of each head.
        histogram: Counts of head-averaged entropy in equal bins over [0, 1].
        principal_component_ratio: Share of the leading principal components in the variance of
            the layer's output.
        sensitivity: Change of the result when the layer is left out; None where not measured.
    """

    entropy_mean: tuple[Fraction, ...]
    entropy_deviation: tuple[NonNegative, ...]
    histogram: tuple[Index, ...]
    principal_component_ratio: Fraction
    sensitivity: NonNegative | None


@dataclass(frozen=True)
class ScaleStats(Artefact):
    """One scale.

    Attributes:
        height: Rows of tokens.
        width: Columns of tokens.
        keys: Keys that a token attends to: those of this and all earlier scales.
        layers: The layers, first to last.
    """

    height: Count
    width: Count
    keys: Count
    layers: tuple[LayerStats, ...]


@dataclass(frozen=True)
class PromptStats(Artefact):
    """One prompt of the calibration set.

    Attributes:
        prompt: Its text.
        low_entropy_ratio: Share of tokens with a low standardised entropy, by scale.
    """

    prompt: str
    low_entropy_ratio: tuple[Fraction, ...]


@dataclass(frozen=True)
class CalibrationStats(Artefact):
    """Everything a policy may decide by.

    Attributes:
        model_sha256: Hash of the calibrated checkpoint.
        prompts_sha256: Hash of the prompt set.
        seed: Seed of the sampling noise.
        schedule: Rows and columns of each scale.
        layers: Layers of the model.
        heads: Attention heads of a layer.
        scales: Measurements by scale.
        prompts: Measurements by prompt.
        seconds: Wall-clock time of each stage.
    """

    schema_version: Literal[1] = dataclass_field(default=1, kw_only=True)
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
        bins = len(self.scales[0].layers[0].histogram) if self.scales[0].layers else 0
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
        for index, prompt in enumerate(self.prompts):
            require_length(
                prompt.low_entropy_ratio,
                len(self.schedule),
                "scale",
                f"prompts[{index}].low_entropy_ratio",
            )

    def _validate_layer(self, layer: LayerStats, bins: int, where: str) -> None:
        require_length(layer.entropy_mean, self.heads, "head", f"{where}.entropy_mean")
        require_length(layer.entropy_deviation, self.heads, "head", f"{where}.entropy_deviation")
        require_length(layer.histogram, bins, "bin of the first histogram", f"{where}.histogram")
