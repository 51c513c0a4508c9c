"""What the parts of a recording take; on a GPU nobody waits for them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import torch

__all__ = ["PartClock"]


class PartClock:
    """Adds up the seconds of parts: on a GPU its own, between events, which are read when the sum is asked for.

    Args:
        parts: their names.
    """

    def __init__(self, parts: Sequence[str]) -> None:
        self._seconds = dict.fromkeys(parts, 0.0)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextlib.contextmanager
    def measure(self, part: str, device: torch.device) -> Iterator[None]:
        """Counts what is done within, on that device, as a part's."""
        if device.type != "cuda":
            with self.waiting(part):
                yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._events.append((part, begin, end))

    @contextlib.contextmanager
    def waiting(self, part: str) -> Iterator[None]:
        """Counts the time that passes within as a part's."""
        started = time.perf_counter()
        yield
        self._seconds[part] += time.perf_counter() - started

    def clear(self) -> None:
        """Begins again."""
        self._events.clear()
        self._seconds = dict.fromkeys(self._seconds, 0.0)

    def seconds(self, part: str) -> float:
        """The sum so far; waits for a GPU."""
        for name, begin, end in self._events:
            end.synchronize()
            self._seconds[name] += begin.elapsed_time(end) / 1000
        self._events.clear()
        return self._seconds[part]
