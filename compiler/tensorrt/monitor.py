"""How far a build is, and the way to end one."""

from __future__ import annotations

from collections.abc import Callable

import tensorrt as trt

from toprovar import interruption

__all__ = ["Monitor", "Tell"]

Tell = Callable[[str, int, int], None]
"""Told the phase of a build, and how many of how many steps of it are done."""


class Monitor(trt.IProgressMonitor):
    """Passes on how far TensorRT is, and stops it after Ctrl-C.

    TensorRT calls from several threads, and an exception that crosses it ends the process: none is raised here.

    Args:
        tell: called at every step.
    """

    def __init__(self, tell: Tell) -> None:
        trt.IProgressMonitor.__init__(self)
        self._tell = tell
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase begins, within another or on its own."""
        self._steps[phase_name] = num_steps
        self._tell(phase_name, 0, num_steps)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """A step is done; whether to go on."""
        self._tell(phase_name, step + 1, self._steps.get(phase_name, 0))
        return interruption.exit_code() is None

    def phase_finish(self, phase_name: str) -> None:
        """A phase has ended."""
        self._steps.pop(phase_name, None)
