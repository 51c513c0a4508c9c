"""Ctrl-C and SIGTERM, remembered: libraries turn the exception into one of their own, or swallow it."""

from __future__ import annotations

import signal
import sys
from types import FrameType

__all__ = ["exit_code", "listen", "stop_if_interrupted"]

_received: list[int] = []


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


def _on_signal(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    _raise(number)


def _raise(number: int) -> None:
    # As an exception, so that context managers remove what is half-written.
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
