"""Work beside a generation: a GPU's queue has room for both, and its host another core for what they launch."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from toprovar.calibration.part_clock import PartClock

__all__ = ["SideWork"]

_UNDER_WAY = 2
"""Pieces that wait or run, at most: what they hold is bounded."""


class SideWork:
    """Pieces of work in order: on a GPU in a thread and a stream of their own, on a CPU at once.

    Args:
        clock: told how long the caller was held up by each part.
    """

    def __init__(self, clock: PartClock) -> None:
        self._clock = clock
        self._under_way: deque[tuple[str, Future[None]]] = deque()

    def do(self, part: str, work: Callable[[], None], device: torch.device) -> None:
        """Takes a piece; waits while there are too many.

        Args:
            part: whose time it counts as.
            work: reads tensors that the device's current stream writes. It holds them until it returns.
            device: where they are.

        Raises:
            Exception: what an earlier piece raised, or on a CPU this one.
        """
        if device.type != "cuda":
            with self._clock.waiting(part):
                work()
            return
        while len(self._under_way) >= _UNDER_WAY:
            self._wait()
        lane = _lane(device)
        ready = torch.cuda.current_stream(device).record_event()
        self._under_way.append((part, lane.thread.submit(lane.run, work, ready)))

    def finish(self) -> None:
        """Waits for all.

        Raises:
            Exception: what the first to fail raised; the others are forgotten.
        """
        while self._under_way:
            self._wait()

    def forget(self) -> None:
        """Waits for all, however they end."""
        for _, piece in self._under_way:
            piece.exception()
        self._under_way.clear()

    def _wait(self) -> None:
        part, piece = self._under_way.popleft()
        with self._clock.waiting(part):
            failure = piece.exception()
        if failure is not None:
            self.forget()
            raise failure


@dataclass(frozen=True)
class _Lane:
    """A thread and its stream, which goes first: small kernels would wait long for room among large ones."""

    thread: ThreadPoolExecutor
    stream: torch.cuda.Stream

    def run(self, work: Callable[[], None], ready: torch.cuda.Event) -> None:
        with torch.cuda.stream(self.stream), torch.inference_mode():
            self.stream.wait_event(ready)
            work()
            # What was read is another stream's memory, which that may use again as soon as the work is let go.
            self.stream.synchronize()


@functools.cache
def _lane(device: torch.device) -> _Lane:
    """One for the process: PyTorch keeps cuBLAS' workspace of every stream for good, 33 MiB on Hopper."""
    return _Lane(ThreadPoolExecutor(1, "toprovar-calibration"), torch.cuda.Stream(device, priority=-1))
