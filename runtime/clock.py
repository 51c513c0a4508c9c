"""Time that a generation takes, by scale."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

__all__ = ["Clock", "HostMoment", "Moment"]


class Moment(ABC):
    """A point in time, between what an engine was asked for before and what after."""

    @abstractmethod
    def since(self, earlier: Moment) -> float:
        """Seconds since an earlier moment of the same engine."""


class HostMoment(Moment):
    """Now: for an engine that has done its work when a call returns."""

    def __init__(self) -> None:
        self._seconds = time.perf_counter()

    def since(self, earlier: Moment) -> float:
        """Seconds since an earlier one."""
        if not isinstance(earlier, HostMoment):
            raise TypeError(f"{type(earlier).__name__} is no moment of the host")
        return self._seconds - earlier._seconds


class Clock:
    """Measures one call.

    Args:
        scales: number of scales.
        started: `time.perf_counter` at the start of the call.
        moment: makes the engine's moments.

    Attributes:
        analysis_seconds: the host's analysis, within the scales.
    """

    def __init__(self, scales: int, started: float, moment: Callable[[], Moment] = HostMoment) -> None:
        self.analysis_seconds = 0.0
        self._scale_seconds = [0.0] * scales
        self._laps: list[tuple[int, Moment, Moment]] = []
        self._started, self._moment = started, moment

    def elapsed(self) -> float:
        """Seconds since the start of the call."""
        return time.perf_counter() - self._started

    def scale(self, scale: int) -> _Lap:
        """Measures a block as work of a scale."""
        return _Lap(self._moment, lambda begun, ended: self._laps.append((scale, begun, ended)))

    def analysis(self) -> _Lap:
        """Measures a block as analysis."""
        return _Lap(HostMoment, self._add_analysis)

    def settle(self) -> None:
        """Adds up what was measured; an engine that works on after a call is waited for."""
        for scale, begun, ended in self._laps:
            self._scale_seconds[scale] += ended.since(begun)
        self._laps.clear()

    @property
    def scale_seconds(self) -> tuple[float, ...]:
        """By scale, all images together, as of the last `settle`."""
        return tuple(self._scale_seconds)

    def _add_analysis(self, begun: Moment, ended: Moment) -> None:
        self.analysis_seconds += ended.since(begun)


class _Lap:
    def __init__(self, moment: Callable[[], Moment], report: Callable[[Moment, Moment], None]) -> None:
        self._moment, self._report = moment, report

    def __enter__(self) -> None:
        self._begun = self._moment()

    def __exit__(self, *exception: object) -> None:
        self._report(self._begun, self._moment())
