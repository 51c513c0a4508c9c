"""Scales of an eager generation, tried in several ways: what sensitivity is measured with."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from toprovar.pruning import Unconditional
from toprovar.runtime.backends.base import Controls, State, StepResult
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.noise import certainty, logistic_noise
from toprovar.runtime.session import Session

__all__ = ["ProbedScale", "probe"]


@dataclass(frozen=True, eq=False)
class _Attempt:
    result: StepResult
    differences: np.ndarray
    source: ProbedScale
    unconditional: Unconditional

    def next_differences(self) -> np.ndarray:
        """Those of the next scale, computed densely after this attempt."""
        return self._following.differences

    def picture(self) -> np.ndarray:
        """The image with all later scales computed densely, float32 [3, height, width] in [-1, 1]."""
        if self.source.last:
            return self.source.backend.decode(self.result.state)[0]
        return self._following.source.finished(self._following.result.state, self.unconditional)

    @functools.cached_property
    def _following(self) -> _Attempt:
        following = self.source.at(self.source.scale + 1, self.result.state)
        every = (following.tokens,) * following.backend.model.layers
        return following.attempt(every, self.unconditional)


@dataclass(frozen=True)
class ProbedScale:
    """One scale of a dense generation (`toprovar.calibration.sensitivity.Trial`)."""

    backend: TorchBackend
    session: Session
    state: State
    seed: int
    scale: int

    @property
    def tokens(self) -> int:
        """Tokens of the scale."""
        return self.session.plan.scales[self.scale].tokens

    @property
    def noise(self) -> np.ndarray:
        """Its sampling noise, float32 [tokens, bits]."""
        return logistic_noise(self.seed, self.scale, self.tokens, self.backend.model.code_bits)

    @property
    def certain(self) -> float:
        """The logit difference from which a bit is not drawn."""
        return certainty(self.session.sampling.top_k, self.session.sampling.top_p)

    @property
    def last(self) -> bool:
        """Whether no scale follows."""
        return self.scale + 1 == len(self.session.plan.scales)

    def at(self, scale: int, state: State) -> ProbedScale:
        """Another scale of the same generation."""
        return ProbedScale(self.backend, self.session, state, self.seed, scale)

    def attempt(self, kept: Sequence[int], unconditional: Unconditional = "full") -> _Attempt:
        """Computes the scale in one way; the generation does not go on by it."""
        result, differences = self.backend.probe(self.state, self._controls(tuple(kept), unconditional))
        return _Attempt(result, differences[0], self, unconditional)

    def finished(self, state: State, unconditional: Unconditional) -> np.ndarray:
        """The image that the scales after this one, computed densely, make of the state behind it.

        The dense graph shows no logits, ranks nothing and caches no updates, which saves a quarter of the time.
        """
        for scale in range(self.scale + 1, len(self.session.plan.scales)):
            state = self.backend.step(state, self.at(scale, state)._controls(None, unconditional)).state
        return self.backend.decode(state)[0]

    def _controls(self, kept: tuple[int, ...] | None, unconditional: Unconditional) -> Controls:
        sampling = self.session.sampling
        guidance, temperature = sampling.guidance[self.scale], sampling.temperature[self.scale]
        return Controls(self.noise[None], guidance, temperature, self.certain, kept, unconditional)


def probe(session: Session, backend: TorchBackend, prompt: str, seed: int) -> Iterator[ProbedScale]:
    """The scales of a dense generation, each to be tried before the next is asked for.

    Args:
        session: a session on the backend.
        backend: made for a plan that reuses guidance, so that this can be tried, too.
        prompt: what to draw.
        seed: of its noise.
    """
    state = session.begin(prompt)
    for scale in range(len(session.plan.scales)):
        here = ProbedScale(backend, session, state, seed, scale)
        yield here
        state = here.attempt((here.tokens,) * backend.model.layers).result.state
