"""Ctrl-C and SIGTERM, remembered: libraries turn the exception into one of their own, or swallow it."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

__all__ = ["deferred", "exit_code", "listen", "stop_if_interrupted"]

_received: list[int] = []
_deferring: list[str] = []


def listen() -> None:
    """From here on the process remembers that it was asked to end."""
    _received.clear()
    signal.signal(signal.SIGINT, _on_signal)
    signal.signal(signal.SIGTERM, _on_signal)


def exit_code() -> int | None:
    """128 and the number of the first signal; None if there was none."""
    return 128 + _received[0] if _received else None


def stop_if_interrupted() -> None:
    """Raises again what a library may have swallowed.

    Raises:
        KeyboardInterrupt: Ctrl-C came.
        SystemExit: SIGTERM came.
    """
    if _received:
        _raise(_received[0])


@contextlib.contextmanager
def deferred(until: str) -> Iterator[None]:
    """Within, the first signal waits for the end: some libraries abort the process if an exception crosses them.

    Args:
        until: what is waited for, to follow upon "stops after".

    Raises:
        KeyboardInterrupt: Ctrl-C came meanwhile.
        SystemExit: SIGTERM came meanwhile.
    """
    _deferring.append(until)
    try:
        yield
    finally:
        _deferring.pop()
    stop_if_interrupted()


def _on_signal(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if _deferring and len(_received) == 1:
        print(f"stops after {_deferring[-1]}; once more stops at once", file=sys.stderr, flush=True)
        return
    _raise(number)


def _raise(number: int) -> None:
    # As an exception, so that context managers remove what is half-written.
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
