"""The two passes over the prompts, with stand-ins for the model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from toprovar.calibration.calibrate import calibrate
from toprovar.calibration.recorder import EntropyRecorder
from toprovar.errors import UsageError
from toprovar.plan import Ranking
from toprovar.stats import CalibrationStats

from .test_toprovar import HEADS, LAYERS, MODEL

GRIDS = ((1, 1), (2, 2))
PROMPTS = ("a", "b", "c")


def run(prompts: Sequence[str] = PROMPTS) -> tuple[CalibrationStats, list[tuple[object, ...]]]:
    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    calls: list[tuple[object, ...]] = []

    def generate(prompt: str, seed: int) -> None:
        calls.append(("generate", prompt, seed))
        for scale, (height, width) in enumerate(GRIDS):
            recorder.on_scale(scale)
            for layer in range(LAYERS):
                recorder.on_attention(layer, torch.full((2, HEADS, height * width), 0.5))
                recorder.on_hidden(layer, torch.eye(height * width, 8)[None])

    def observe(ranking: Ranking) -> object:
        calls.append(("ranking", ranking.observers, ranking.mean[0]))

        def watch(prompt: str, seed: int) -> list[np.ndarray]:
            calls.append(("observe", prompt, seed))
            return [np.array([-1.0]), np.array([-1.0, -0.6, -0.4, 2.0])]

        return watch

    stats = calibrate(
        MODEL, GRIDS, prompts, 5, recorder, generate, observe, lambda *told: calls.append(("told", *told))
    )
    return stats, calls


def test_both_passes_use_the_same_seeds_and_the_second_the_moments_of_the_first() -> None:
    stats, calls = run()
    assert [call for call in calls if call[0] == "generate"] == [("generate", p, 5 + i) for i, p in enumerate(PROMPTS)]
    assert [call for call in calls if call[0] == "observe"] == [("observe", p, 5 + i) for i, p in enumerate(PROMPTS)]
    assert calls.index(("ranking", (3, 4), ((0.5,) * HEADS,) * 2)) == 2 * len(PROMPTS)
    assert [call[1:] for call in calls if call[0] == "told"] == [
        (stage, i + 1, 3) for stage in ("calibrate", "observe") for i in range(3)
    ]
    assert [prompt.low_entropy_ratio for prompt in stats.prompts] == [(1.0, 0.5)] * 3
    assert stats.prompts_sha256 == hashlib.sha256(b"a\nb\nc").hexdigest()
    assert all(seconds >= 0 for seconds in stats.seconds.values())
    assert len(stats.seconds) == 2
    assert CalibrationStats.from_json(stats.to_json()) == stats


def test_no_prompts() -> None:
    with pytest.raises(UsageError, match="no calibration prompts"):
        run(())
