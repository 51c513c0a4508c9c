"""The share of a scale's tokens whose standardised attention entropy is low (ToProVAR, arXiv 2602.22948)."""

from __future__ import annotations

import numpy as np

from toprovar.runtime.statistics.base import SeenScale, Statistic

__all__ = ["STATISTIC"]


class _LowEntropyRatio(Statistic):
    needs_entropy = True
    largest = 1.0

    def measure(self, seen: SeenScale) -> np.ndarray:
        if seen.entropy is None:
            raise ValueError("expected a scale that was observed")
        return (seen.entropy < self.rule.low_below).mean(1)

    def words(self) -> str:
        return f"the share of its tokens whose standardised entropy is below {self.rule.low_below:g}"


STATISTIC = _LowEntropyRatio
