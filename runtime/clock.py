"""Wall-clock of a generation."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """Measures one call.

    Args:
        scales: number of scales.
        started: `time.perf_counter` at the start of the call.

    Attributes:
        scale_seconds: by scale, all images together.
        analysis_seconds: the host's analysis, within the scales.
    """

    def __init__(self, scales: int, started: float) -> None:
        self.scale_seconds = [0.0] * scales
        self.analysis_seconds = 0.0
        self._started = started

    def elapsed(self) -> float:
        """Seconds since the start of the call."""
        return time.perf_counter() - self._started

    def scale(self, scale: int) -> _Lap:
        """Measures a block as work of a scale."""
        return _Lap(lambda seconds: self._add_scale(scale, seconds))

    def analysis(self) -> _Lap:
        """Measures a block as analysis."""
        return _Lap(self._add_analysis)

    def _add_scale(self, scale: int, seconds: float) -> None:
        self.scale_seconds[scale] += seconds

    def _add_analysis(self, seconds: float) -> None:
        self.analysis_seconds += seconds


class _Lap:
    def __init__(self, report: Callable[[float], None]) -> None:
        self._report = report

    def __enter__(self) -> None:
        self._begun = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self._report(time.perf_counter() - self._begun)
