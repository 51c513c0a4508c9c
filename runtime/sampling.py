"""How bits are drawn at every scale: what a call asks for, else the model's defaults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from toprovar.errors import UsageError
from toprovar.manifest import SamplingDefaults
from toprovar.runtime.noise import certainty

__all__ = ["Sampling"]


@dataclass(frozen=True)
class Sampling:
    """What every scale reads.

    Attributes:
        guidance: by scale.
        temperature: by scale.
        certain: logit difference from which a bit is not drawn (`toprovar.runtime.noise.certainty`).
    """

    guidance: tuple[float, ...]
    temperature: tuple[float, ...]
    certain: float

    @classmethod
    def of(
        cls,
        defaults: SamplingDefaults,
        scales: int,
        guidance: float | Sequence[float] | None = None,
        temperature: float | Sequence[float] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Self:
        """What is asked for, one number for all scales or one a scale; None takes the default.

        Raises:
            UsageError: a number that cannot be, or another number of them.
        """
        top_k = defaults.top_k if top_k is None else top_k
        top_p = defaults.top_p if top_p is None else top_p
        if top_k < 0 or not 0 <= top_p <= 1:
            raise UsageError(f"top_k {top_k} and top_p {top_p}; expected at least 0, and from 0 to 1", "0 is off")
        return cls(
            _per_scale("guidance", defaults.guidance if guidance is None else guidance, scales, zero=True),
            _per_scale("temperature", defaults.temperature if temperature is None else temperature, scales),
            certainty(top_k, top_p),
        )


def _per_scale(name: str, value: float | Sequence[float], scales: int, zero: bool = False) -> tuple[float, ...]:
    values = tuple(np.atleast_1d(np.asarray(value, np.float64)).tolist())
    if len(values) == 1:
        values *= scales
    if len(values) != scales:
        raise UsageError(f"{len(values)} values of {name} for {scales} scales; expected one, or one a scale")
    if not all(np.isfinite(one) and (one > 0 or (zero and one == 0)) for one in values):
        raise UsageError(f"{name} {values}; expected finite numbers {'of at least' if zero else 'above'} 0")
    return values
