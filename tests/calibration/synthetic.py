"""A made-up model: what it shows of a prompt depends on the prompt's seed alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from toprovar.calibration.calibrate import calibrate
from toprovar.calibration.journal import Journal
from toprovar.calibration.recorder import EntropyRecorder
from toprovar.calibration.recording import Recording
from toprovar.manifest import ModelRecord
from toprovar.plan import Ranking
from toprovar.stats import CalibrationStats

GRIDS = ((1, 1), (2, 2), (3, 5))
LAYERS, HEADS, WIDTH = 3, 2, 8
MODEL = ModelRecord("infinity", "x", "0" * 64, LAYERS, HEADS, 4, WIDTH, 16, False, (LAYERS,), 3, 5, 24, 40)


def entropies(seed: int) -> list[np.ndarray]:
    """By scale, relative entropy float32 [layers, heads, tokens]; 0 where there is but one key."""
    rng = np.random.default_rng(seed)
    maps = [rng.beta(4, 2, (LAYERS, HEADS, h * w)).astype(np.float32) for h, w in GRIDS]
    maps[0][:] = 0
    return maps


def hiddens(seed: int) -> list[np.ndarray]:
    """By scale, float32 [layers, tokens, width]."""
    rng = np.random.default_rng(seed + 1_000_000)
    return [rng.normal(size=(LAYERS, h * w, WIDTH)).astype(np.float32) for h, w in GRIDS]


def show(recorder: EntropyRecorder, seed: int, scales: Sequence[int] = range(len(GRIDS)), together: int = 1) -> None:
    """What a step tells an observer, `together` layers at once; the second row is the unconditional one."""
    shown = list(zip(entropies(seed), hiddens(seed), strict=True))
    for scale in scales:
        entropy, hidden = shown[scale]
        recorder.on_scale(scale)
        for first in range(0, LAYERS, together):
            own = slice(first, first + together)
            recorder.on_attention(first, torch.from_numpy(np.stack([entropy[own], np.ones_like(entropy[own])], 1)))
            recorder.on_hidden(first, torch.from_numpy(np.stack([hidden[own], np.zeros_like(hidden[own])], 1)))


def record(seed: int, together: int = 1) -> Recording:
    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)
    show(recorder, seed, together=together)
    return recorder.recording()


@dataclass(frozen=True)
class Seen:
    """One scale of the second pass."""

    entropy: np.ndarray
    high_frequency: float


def watch(prompt: str, seed: int) -> list[Seen]:
    """Second pass: standardised entropies, and changes to edges."""
    rng = np.random.default_rng(seed + 2_000_000)
    return [Seen(rng.normal(size=h * w), float(rng.random())) for h, w in GRIDS]


def keep_quiet(*told: object) -> None:
    pass


def run(
    table: Path,
    prompts: Sequence[str],
    journal: Journal | None = None,
    seed: int = 5,
    measure: Callable[[str, int], Recording] | None = None,
    observe: Callable[[Ranking], Callable[[str, int], Sequence[np.ndarray]]] = lambda ranking: watch,
    progress: Callable[..., None] = keep_quiet,
) -> CalibrationStats:
    """A calibration of the made-up model."""
    return calibrate(
        MODEL,
        GRIDS,
        prompts,
        seed,
        measure or (lambda prompt, own: record(own)),
        observe,
        progress,
        journal or Journal(None, "0" * 64, keep_quiet),
        table,
    )
