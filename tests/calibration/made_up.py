"""Statistics of a made-up calibration on the schedule of nano."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from toprovar.calibration.policy import Task
from toprovar.manifest import ModelRecord
from toprovar.stats import (
    CalibrationStats,
    GuidanceSensitivity,
    LayerSensitivity,
    LayerStats,
    PromptStats,
    ScaleSensitivity,
    ScaleStats,
)

SIDES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32)
LAYERS, HEADS = 8, 4
PROMPTS = 100


def make_task(target: float, sides: Sequence[int] = SIDES, layers: int = LAYERS) -> Task:
    record = ModelRecord(
        family="infinity",
        source="nano",
        sha256="0" * 64,
        layers=layers,
        heads=HEADS,
        head_dim=64,
        width=256,
        code_bits=32,
        patchify=False,
        guidance_layers=(layers,),
        latent_height=sides[-1],
        latent_width=sides[-1],
        image_height=8 * sides[-1],
        image_width=8 * sides[-1],
    )
    return Task(record, target, text_tokens=32)


def make_stats(sides: Sequence[int] = SIDES, layers: int = LAYERS, prompts: int = PROMPTS) -> CalibrationStats:
    """Every prompt has its own high frequency, the same at all scales, in no order."""
    rng = np.random.default_rng(0)
    frequencies = rng.permutation(np.linspace(0.05, 0.3, prompts)).tolist()
    layer = LayerStats((0.5,) * HEADS, (0.1,) * HEADS, ((0,) * 4,) * HEADS, 0.5, 0.0)

    def probed(scale: int) -> tuple[LayerStats, ...]:
        """From the fifth last scale on; the first and the last layer suffer most, as they do in a real model."""
        if scale < len(sides) - 5:
            return (layer,) * layers
        hurts = [1 + 3 * (number in (0, layers - 1)) for number in range(layers)]
        shares = ((0.5, 0.01), (0.25, 0.03), (0.0, 0.1))
        return tuple(
            dataclasses.replace(
                layer, sensitivity=tuple(LayerSensitivity(kept, kl * own, kl * own / 4, None) for kept, kl in shares)
            )
            for own in hurts
        )

    def spared(scale: int) -> tuple[GuidanceSensitivity, ...]:
        late = scale >= len(sides) - 5
        modes = GuidanceSensitivity("reused", 0.02, 0.01, 2e-5), GuidanceSensitivity("omitted", 0.3, 0.1, 3e-4)
        return modes if late else ()

    def whole(scale: int) -> tuple[ScaleSensitivity, ...]:
        """The last scale is missed most; half of the tokens are nearly free."""
        if scale < max(len(sides) - 5, 1):
            return ()
        hurts = 25 if scale == len(sides) - 1 else 1
        errors = (0.75, 1e-6), (0.5, 1e-5), (0.25, 4e-5), (0.0, 1e-4)
        return tuple(ScaleSensitivity(kept, 1e3 * error, 1e3 * error, None, hurts * error) for kept, error in errors)

    keys = np.cumsum(np.square(sides)).tolist()
    return CalibrationStats(
        model_sha256="0" * 64,
        prompts_sha256="1" * 64,
        seed=0,
        schedule=tuple((side, side) for side in sides),
        layers=layers,
        heads=HEADS,
        scales=tuple(
            ScaleStats(side, side, own, probed(scale), spared(scale), whole(scale))
            for scale, (side, own) in enumerate(zip(sides, keys, strict=True))
        ),
        prompts=tuple(
            PromptStats(
                prompt=f"prompt {index}",
                seed=index,
                entropy_mean=(0.5,) * len(sides),
                low_entropy_ratio=(index / prompts,) * len(sides),
                high_frequency=(value,) * len(sides),
            )
            for index, value in enumerate(frequencies)
        ),
        seconds={},
    )
