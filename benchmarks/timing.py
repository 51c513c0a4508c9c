"""Times generations scale by scale, on the device's own clock where there is one."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from toprovar.runtime.session import Session

__all__ = ["Lap", "Timing", "time_session"]


class _Marks:
    """Points in time: events on a GPU, the host's clock elsewhere."""

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self._marks: list[Any] = []

    def add(self) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def milliseconds(self) -> list[float]:
        """Between each and the next."""
        pairs = list(zip(self._marks, self._marks[1:], strict=False))
        if self._cuda:
            torch.cuda.synchronize()
            return [first.elapsed_time(second) for first, second in pairs]
        return [(second - first) * 1000 for first, second in pairs]


class _Watched:
    """A backend that marks the ends of its steps."""

    def __init__(self, backend: Any, marks: _Marks) -> None:
        self._backend, self._marks = backend, marks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def begin(self, *arguments: Any) -> Any:
        self._marks.add()
        return self._backend.begin(*arguments)

    def step(self, *arguments: Any) -> Any:
        result = self._backend.step(*arguments)
        self._marks.add()
        return result

    def decode_pictures(self, *arguments: Any) -> Any:
        images = self._backend.decode_pictures(*arguments)
        self._marks.add()
        return images


@dataclass(frozen=True)
class Lap:
    """One generation in milliseconds.

    Attributes:
        total: the whole call, from features to pictures on the host.
        device: from the beginning to decoded pixels, on the device's clock.
        scales: each from the end of the one before; the first contains the prompt.
        decode: the image decoder and the way to the host.
    """

    total: float
    device: float
    scales: list[float]
    decode: float


@dataclass(frozen=True)
class Timing:
    """Laps of one plan.

    Attributes:
        cold: the first call, milliseconds.
        laps: the warm ones.
        peak_bytes: most memory that torch held for tensors; None on a CPU.
        reserved_bytes: most memory that torch took from the device; None on a CPU.
    """

    cold: float
    laps: list[Lap]
    peak_bytes: int | None
    reserved_bytes: int | None

    def median(self, name: str) -> float:
        """Of ``total``, ``device`` or ``decode``."""
        return statistics.median(getattr(lap, name) for lap in self.laps)

    def spread(self, name: str) -> tuple[float, float]:
        """Least and most."""
        values = [getattr(lap, name) for lap in self.laps]
        return min(values), max(values)

    def scales(self) -> list[float]:
        """Medians by scale."""
        return [statistics.median(column) for column in zip(*(lap.scales for lap in self.laps), strict=True)]

    def to_json(self) -> dict[str, Any]:
        """All figures."""
        return asdict(self) | {
            "median_total_ms": self.median("total"),
            "median_device_ms": self.median("device"),
            "median_decode_ms": self.median("decode"),
            "median_scales_ms": self.scales(),
        }


def time_session(session: Session, features: np.ndarray, laps: int, cuda: bool, batch: int = 1) -> Timing:
    """Runs a session's prompt several times.

    Args:
        session: what to time.
        features: of the prompt.
        laps: warm generations, after one cold and two to warm up.
        cuda: use the device's clock.
        batch: images that run together.
    """
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    cold = _lap(session, features, cuda, batch, 0).total
    for index in range(2):
        _lap(session, features, cuda, batch, index)
    made = [_lap(session, features, cuda, batch, index) for index in range(laps)]
    peak = torch.cuda.max_memory_allocated() if cuda else None
    reserved = torch.cuda.max_memory_reserved() if cuda else None
    return Timing(cold, made, peak, reserved)


def _lap(session: Session, features: np.ndarray, cuda: bool, batch: int, seed: int) -> Lap:
    marks = _Marks(cuda)
    watched: Any = _Watched(session.backend, marks)
    timed = Session(watched, session.plan, session.sampling, session.tokenize)
    if cuda:
        torch.cuda.synchronize()
    started = time.perf_counter()
    timed([features] * batch, generator=list(range(seed, seed + batch)), batch_size=batch)
    total = (time.perf_counter() - started) * 1000
    parts = marks.milliseconds()
    return Lap(total, sum(parts), parts[:-1], parts[-1])
