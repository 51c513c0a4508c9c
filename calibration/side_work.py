"""Work beside a generation: a GPU's queue has room for both, and its host another core for what they launch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

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
        self._thread: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None
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
        if self._thread is None:
            self._thread, self._stream = (
                ThreadPoolExecutor(1, "toprovar-calibration"),
                torch.cuda.Stream(device, priority=-1),
            )
        ready = torch.cuda.current_stream(device).record_event()
        self._under_way.append((part, self._thread.submit(self._run, work, ready)))

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

    def _run(self, work: Callable[[], None], ready: torch.cuda.Event) -> None:
        assert self._stream is not None
        with torch.cuda.stream(self._stream), torch.inference_mode():
            self._stream.wait_event(ready)
            work()
            # What was read is another stream's memory, which that may use again as soon as the work is let go.
            self._stream.synchronize()
