"""Work that is run once as it is, then captured and replayed."""

from __future__ import annotations

import gc
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from toprovar.console import remark

__all__ = ["Recorder", "Replay"]

_idle: defaultdict[torch.device, list[torch.cuda.Stream]] = defaultdict(list)
"""Streams whose recorder is gone, for the next one.

PyTorch keeps cuBLAS' workspace of every stream for good, 33 MiB on Hopper: with a stream of its own each runtime would
leave one behind. Two that live at a time never share one, since their graphs may be replayed at once.
"""


class Replay:
    """One piece of work on static buffers, to be called any number of times.

    The first call runs it as it is, which compiles its kernels, and captures it; later calls replay the graph. The
    work must give the same however often it runs.

    Args:
        work: what to do.
        recorder: captures it; None runs it as it is every time.
    """

    def __init__(self, work: Callable[[], None], recorder: Recorder | None) -> None:
        self._work, self._recorder = work, recorder
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Does the work."""
        if self._graph is not None:
            self._graph.replay()
            return
        self._work()
        if self._recorder is not None:
            self._graph = self._recorder.capture(self._work)
            self._recorder = None


class Recorder:
    """Captures work in graphs that share their memory, which is safe because nothing of a graph outlives its replay.

    A pool of memory that no graph uses any more takes no new ones, so one small graph is kept as long as the recorder.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = _take_stream(device)
        weakref.finalize(self, _idle[device].append, self._stream)
        self._pool = torch.cuda.graph_pool_handle()
        self._told = False
        kept = torch.zeros(1, device=device)
        self._anchor = kept, self.capture(kept.zero_)

    def capture(self, work: Callable[[], object]) -> torch.cuda.CUDAGraph | None:
        """A graph of the work, which is not run; None, with a remark, if it cannot be captured."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self._stream), _without_collection():
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    work()
                finally:
                    graph.capture_end()
        except RuntimeError as error:
            # What broke the capture says more than that it was broken.
            cause = error.__context__ or error
            if isinstance(cause, torch.cuda.OutOfMemoryError):
                raise cause from None
            self._tell(cause)
            torch.cuda.synchronize()
            return None
        torch.cuda.current_stream().wait_stream(self._stream)
        return graph

    def _tell(self, error: BaseException) -> None:
        if not self._told:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            remark(f"a scale runs without a CUDA graph: {reason}")
            self._told = True


def _take_stream(device: torch.device) -> torch.cuda.Stream:
    try:
        return _idle[device].pop()
    except IndexError:
        return torch.cuda.Stream(device)


@contextmanager
def _without_collection() -> Iterator[None]:
    """A collected graph or event would call the driver in the middle of a capture."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
