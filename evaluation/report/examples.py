"""Example prompts, drawn dense and sparse from the same noise and watched on the way."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from toprovar.evaluation.fidelity import psnr
from toprovar.extensions import BACKENDS
from toprovar.machine import describe_processor
from toprovar.runtime.backends.base import Backend, Controls, State, StepResult
from toprovar.runtime.session import GeneratedImage, Generation, Session

__all__ = ["Example", "Examples", "Timing", "draw_examples"]

Progress = Callable[[str, int, int], None]
"""Told (stage, done, total)."""

_LEAST_RUNS = 3


@dataclass(frozen=True)
class Timing:
    """Medians over generations of one image, wall-clock in seconds.

    Attributes:
        total: From the prompt to the image.
        scales: Of each scale.
        analysis: What the depth rule took on the host, within the scales.
    """

    total: float
    scales: tuple[float, ...]
    analysis: float

    @property
    def rest(self) -> float:
        """Text encoder and decoder: what is outside of the scales."""
        return max(self.total - sum(self.scales), 0.0)


@dataclass(frozen=True, eq=False)
class Example:
    """One prompt.

    Attributes:
        prompt: Its text.
        dense: Every token computed.
        sparse: By the plan.
        entropy: Standardised entropy [tokens] by scale, as observed densely; empty without observers.
        priors: What the tokens of each scale were sorted by in the sparse run, [tokens]; low came first.
    """

    prompt: str
    dense: GeneratedImage
    sparse: GeneratedImage
    entropy: tuple[np.ndarray, ...]
    priors: tuple[np.ndarray, ...]

    @property
    def psnr(self) -> float:
        """Of the sparse image to the dense one in dB; infinite if they are equal."""
        return psnr(self.dense.pixels, self.sparse.pixels)


@dataclass(frozen=True, eq=False)
class Examples:
    """All of them, with what they took.

    Attributes:
        shown: The examples.
        runs: Generations behind each median.
        dense: Medians with every token computed.
        sparse: Medians by the plan.
        machine: Where it was measured.
    """

    shown: tuple[Example, ...]
    runs: int
    dense: Timing
    sparse: Timing
    machine: str

    @property
    def source(self) -> str:
        """Where measured numbers come from, in words."""
        return f"measured by this report: median of {self.runs} runs on {self.machine}"


class _Recorder:
    """A backend that notes what each scale's tokens are sorted by."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.priors: list[np.ndarray] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def step(self, state: State, controls: Controls) -> StepResult:
        self.priors.append(np.array(state.prior[0]))
        return self._backend.step(state, controls)


def draw_examples(session: Session, prompts: Sequence[str], progress: Progress) -> Examples:
    """Draws each prompt dense and sparse, and several times if there are few.

    Args:
        session: An open deployment.
        prompts: One at least; prompt i is drawn with seed i.
        progress: Told how far it is.
    """
    rounds = math.ceil(_LEAST_RUNS / len(prompts))
    total = 2 + len(prompts) * (2 * rounds + 1)
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress("draw", done, total)

    for dense in (True, False):
        session(prompts[0], dense=dense)  # loads the graphs, so that the times compare
        tell()
    dense_runs: list[Generation] = []
    sparse_runs: list[Generation] = []
    shown = []
    for turn in range(rounds):
        for seed, prompt in enumerate(prompts):
            dense_runs.append(session(prompt, generator=seed, dense=True))
            tell()
            recorder = _Recorder(session.backend)
            watched = Session(cast(Backend, recorder), session.plan, session.sampling, session.tokenize)
            sparse_runs.append(watched(prompt, generator=seed))
            tell()
            if turn == 0:
                images = dense_runs[-1].images[0], sparse_runs[-1].images[0]
                shown.append(Example(prompt, *images, _entropy(session, prompt, seed), tuple(recorder.priors)))
                tell()
    return Examples(tuple(shown), len(sparse_runs), _timing(dense_runs), _timing(sparse_runs), _machine(session))


def _entropy(session: Session, prompt: str, seed: int) -> tuple[np.ndarray, ...]:
    """The one place that knows what `Session.observe` returns."""
    if not session.plan.ranking.observers:
        return ()
    return tuple(one.entropy for one in session.observe(prompt, seed))


def _timing(runs: Sequence[Generation]) -> Timing:
    by_scale = zip(*(run.scale_seconds for run in runs), strict=True)
    return Timing(
        statistics.median(run.seconds for run in runs),
        tuple(map(statistics.median, by_scale)),
        statistics.median(run.analysis_seconds for run in runs),
    )


def _machine(session: Session) -> str:
    return f"{describe_processor()}, {BACKENDS.load(session.backend.name).check_available()}"
