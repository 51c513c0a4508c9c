"""Measures what reduced precision does to the logits: the same generation, its codes forced, in each precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toprovar.plan import SparsityPlan
from toprovar.runtime.backends.base import Controls
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session

__all__ = ["ForcedGeneration", "logits_along", "relative_errors"]

_BEYOND_ALL_LOGITS = 1e6


@dataclass(frozen=True)
class ForcedGeneration:
    """What is generated, whatever the logits.

    Attributes:
        prompt: what is drawn.
        bits: uint8 [tokens, bits] of every scale.
    """

    prompt: str
    bits: tuple[np.ndarray, ...]

    @classmethod
    def draw(cls, session: Session, prompt: str, seed: int) -> ForcedGeneration:
        """As a session draws it, densely."""
        return cls(prompt, session(prompt, generator=seed, dense=True).images[0].bits)


def logits_along(
    backend: TorchBackend, session: Session, generation: ForcedGeneration, plan: SparsityPlan | None = None
) -> list[np.ndarray]:
    """The logit of 1 less that of 0 of every bit, float32 [tokens, bits], at every scale of a given generation.

    Args:
        backend: what computes them; must show logits.
        session: gives the text and the sampling.
        generation: the codes.
        plan: whose kept counts to compute; everything if None.
    """
    sampling = session.sampling
    own = Session(backend, session.plan, sampling, session.tokenize)
    state = own.begin(generation.prompt)
    differences = []
    for scale, bits in enumerate(generation.bits):
        kept = (len(bits),) * backend.model.layers if plan is None else plan.scales[scale].kept
        noise = ((2.0 * bits - 1) * _BEYOND_ALL_LOGITS).astype(np.float32)[None]
        controls = Controls(noise, sampling.guidance[scale], sampling.temperature[scale], float("inf"), kept)
        result, logits = backend.probe(state, controls)
        state = result.state
        differences.append(logits[0])
    return differences


def relative_errors(own: Sequence[Sequence[np.ndarray]], exact: Sequence[Sequence[np.ndarray]]) -> tuple[float, ...]:
    """Root mean square of the error over that of the exact values, by scale, over all generations."""
    errors = []
    for scale in range(len(exact[0])):
        wrong = np.concatenate([(a[scale] - b[scale]).ravel() for a, b in zip(own, exact, strict=True)])
        right = np.concatenate([one[scale].ravel() for one in exact])
        errors.append(
            float(np.sqrt(np.square(wrong, dtype=np.float64).mean() / np.square(right, dtype=np.float64).mean()))
        )
    return tuple(errors)
