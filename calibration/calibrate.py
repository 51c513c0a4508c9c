"""Runs the calibration prompts and gathers what policies decide by."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from toprovar.calibration.depth_rule import LOW_BELOW
from toprovar.calibration.ranking import entropy_ranking
from toprovar.calibration.recorder import EntropyRecorder
from toprovar.errors import UsageError
from toprovar.manifest import ModelRecord
from toprovar.plan import Ranking
from toprovar.stats import CalibrationStats, PromptStats

__all__ = ["calibrate", "prompts_digest"]

Generate = Callable[[str, int], object]
"""Generates an image densely, with the recorder attached: (prompt, seed)."""

Observe = Callable[[str, int], Sequence[np.ndarray]]
"""Generates an image densely and returns the standardised entropy map [tokens] of every scale."""

Progress = Callable[[str, int, int], None]
"""Told (stage, done, total)."""


def prompts_digest(prompts: Sequence[str]) -> str:
    """SHA-256 of a prompt set, in its order."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()


def calibrate(
    model: ModelRecord,
    schedule: Sequence[tuple[int, int]],
    prompts: Sequence[str],
    seed: int,
    recorder: EntropyRecorder,
    generate: Generate,
    observe: Callable[[Ranking], Observe],
    progress: Progress,
) -> CalibrationStats:
    """Two passes over the prompts.

    The first measures every layer. The second, with the moments of the first, measures what a deployment
    will: the share of low-entropy tokens of each prompt at each scale.

    Args:
        model: facts of the model.
        schedule: token grid of every scale.
        prompts: calibration prompts.
        seed: prompt i is drawn with seed + i.
        recorder: watches `generate`.
        generate: first pass.
        observe: makes the second pass's function for a ranking.
        progress: told after every prompt.

    Raises:
        UsageError: no prompts.
    """
    if not prompts:
        raise UsageError("no calibration prompts; expected one a line", "give a file that holds some with --prompts")
    seconds: dict[str, float] = {}
    started = time.perf_counter()
    for index, prompt in enumerate(prompts):
        generate(prompt, seed + index)
        progress("calibrate", index + 1, len(prompts))
    seconds["entropy and principal components"] = time.perf_counter() - started

    def gathered(observed: tuple[PromptStats, ...]) -> CalibrationStats:
        return CalibrationStats(
            model_sha256=model.sha256,
            prompts_sha256=prompts_digest(prompts),
            seed=seed,
            schedule=tuple((height, width) for height, width in schedule),
            layers=model.layers,
            heads=model.heads,
            scales=recorder.scales(),
            prompts=observed,
            seconds=seconds,
        )

    watch = observe(entropy_ranking(gathered(())))
    started = time.perf_counter()
    observed = []
    for index, prompt in enumerate(prompts):
        maps = watch(prompt, seed + index)
        ratios = tuple(float((entropy < LOW_BELOW).mean()) for entropy in maps)
        observed.append(PromptStats(prompt, ratios))
        progress("observe", index + 1, len(prompts))
    seconds["low-entropy ratios"] = time.perf_counter() - started
    return gathered(tuple(observed))
