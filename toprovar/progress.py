"""Progress of a long job on stderr: one bar a stage, with time left, and wall-clock for the record.

Where stderr is no terminal, lines take the place of bars: one when a stage begins and ends, and one every half minute.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from toprovar.console import diagnostics
from toprovar.interruption import stop_if_interrupted

__all__ = ["Stages"]

_BETWEEN_LINES = 30.0
"""Seconds between two lines where there are no bars."""


class Stages:
    """Shows stages as they come; each is named by whoever reports it.

    Attributes:
        seconds: wall-clock of every stage so far; of one that began more than once, all of it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        console = diagnostics()
        self._plain = not console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeLeftColumn(),
            console=console,
            disable=self._plain,
        )
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._earlier: dict[str, float] = {}
        self._last = time.perf_counter()
        self._line_at = self._last

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def progress(self, stage: str, done: int, total: int) -> None:
        """Reports that `done` of `total` are done; a stage's clock starts where the last report ended.

        With fewer done than before, a stage begins again.

        Raises:
            KeyboardInterrupt: Ctrl-C came since, and a library swallowed it.
        """
        stop_if_interrupted()
        now = time.perf_counter()
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
            self._started[stage], self._earlier[stage] = self._last, 0.0
        elif done < self._task(stage).completed:
            self._progress.reset(self._tasks[stage], total=total)
            self._started[stage], self._earlier[stage] = self._last, self.seconds[stage]
        self._progress.update(self._tasks[stage], completed=done, total=total)
        self.seconds[stage] = self._earlier[stage] + now - self._started[stage]
        self._last = now
        if self._plain and (done in (0, total) or now - self._line_at >= _BETWEEN_LINES):
            self._line_at = now
            self.remark(self._line(stage, done, total))

    def _line(self, stage: str, done: int, total: int) -> str:
        line = f"{stage}: {done} of {total}"
        if done == total:
            return f"{line} in {self.seconds[stage] - self._earlier[stage]:.1f} s"
        left = self._task(stage).time_remaining
        return line if left is None else f"{line}, {datetime.timedelta(seconds=round(left))} left"

    def _task(self, stage: str) -> Task:
        return next(task for task in self._progress.tasks if task.id == self._tasks[stage])

    @contextlib.contextmanager
    def waiting(self, name: str) -> Iterator[Callable[[str], None]]:
        """A piece of unknown length: a bar that moves, and the time that it has taken.

        Yields:
            Says what is being done, beside the name; may be called from any thread.
        """
        stop_if_interrupted()
        started = time.perf_counter()
        task = self._progress.add_task(name, total=None)
        if self._plain:
            self.remark(f"{name}: begun")
        try:
            yield lambda what: self._progress.update(task, description=f"{name}: {what}")
        finally:
            self._last = time.perf_counter()
            self.seconds[name] = self._last - started
            self._progress.update(task, description=name, total=1)
        self._progress.update(task, completed=1)
        if self._plain:
            self.remark(f"{name}: done in {self.seconds[name]:.1f} s")

    def remark(self, line: str) -> None:
        """Prints a line above the bars."""
        self._progress.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage of one piece."""
        self.progress(name, 0, 1)
        yield
        self.progress(name, 1, 1)
