"""How sure a mean over prompts is: percentile intervals of the bootstrap (Efron, 1979)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Interval", "bootstrap"]

_RESAMPLES = 2000
_SEED = 20261125


@dataclass(frozen=True)
class Interval:
    """A mean and where it may lie.

    Attributes:
        mean: of the values, each group counting alike.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: Sequence[float], groups: Sequence[str] | None = None) -> Interval:
    """The interval of a mean over prompts; give paired differences to compare two runs.

    Args:
        values: one a prompt.
        groups: category of each prompt; the mean is that of the categories' means, and each category is resampled
            by itself. None puts all into one.

    Raises:
        ValueError: no values, or another number of groups.
    """
    kinds = ["" for _ in values] if groups is None else list(groups)
    if not len(values) or len(kinds) != len(values):
        raise ValueError(f"{len(values)} values and {len(kinds)} groups; expected as many, and one at least")
    array = np.asarray(values, np.float64)
    generator = np.random.default_rng(_SEED)
    mean, resampled = 0.0, np.zeros(_RESAMPLES)
    names = sorted(set(kinds))
    for name in names:
        own = array[[kind == name for kind in kinds]]
        mean += float(own.mean()) / len(names)
        picked = generator.integers(0, len(own), (_RESAMPLES, len(own)))
        resampled += own[picked].mean(1) / len(names)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(mean, float(low), float(high))
