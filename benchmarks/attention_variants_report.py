"""What ``attention_variants.py`` makes of its log: a JSON file and a compact table."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attention_variants_tasks import Task, tasks

__all__ = ["Log", "Result", "lines", "read_log", "write_report"]


@dataclass(frozen=True)
class Result:
    """A finished task.

    Attributes:
        task: What was run.
        figures: What it gave: "error" and "trace" if it raised.
        seconds: How long it took.
    """

    task: Task
    figures: dict[str, Any]
    seconds: float

    @property
    def failed(self) -> bool:
        """The task raised, so that its other figures are missing."""
        return "error" in self.figures


@dataclass(frozen=True)
class Log:
    """What the children have written so far.

    Attributes:
        machine: Names of the device and versions of torch and Triton; empty before a child
            has reached the device.
        started: Index of the task that was started last, -1 before the first.
        results: Finished tasks by index.
    """

    machine: dict[str, str]
    started: int
    results: dict[int, Result]


def read_log(path: Path) -> Log:
    """Read the log of a run that may still go on.

    Args:
        path: Its JSON lines.

    Returns:
        What it says; a line that a killed child has left unfinished is passed over.
    """
    listed = tasks()
    machine: dict[str, str] = {}
    started = -1
    results = {}
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if "device" in line:
            machine = line
        elif "started" in line:
            started = line["started"]
        else:
            results[line["done"]] = Result(listed[line["done"]], line["figures"], line["seconds"])
    return Log(machine, started, results)


def write_report(path: Path, log: Log, lost: list[int], seconds: float) -> None:
    """Write the figures.

    Args:
        path: Where to.
        log: The finished tasks.
        lost: Indices of the tasks that hung or crashed.
        seconds: How long everything took.
    """
    listed = tasks()
    report = {
        "schema_version": 1,
        **log.machine,
        "seconds": round(seconds, 1),
        "lost": [dataclasses.asdict(listed[index]) for index in lost],
        "results": [dataclasses.asdict(result) for result in log.results.values()],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def lines(log: Log, lost: list[int], seconds: float) -> Iterator[str]:
    """Say the same in few lines, the table last.

    Args:
        log: The finished tasks.
        lost: Indices of the tasks that hung or crashed.
        seconds: How long everything took.

    Yields:
        Lines of text.
    """
    results = list(log.results.values())
    machine = ", ".join(f"{key} {value}" for key, value in log.machine.items())
    yield f"{len(results)} of {len(tasks())} tasks in {seconds:.0f} s; {machine}"
    yield from (f"LOST   {tasks()[index]}" for index in lost)
    for result in results:
        if result.failed:
            yield f"ERROR  {result.task}: {result.figures['error'][:160]}"
    yield from _checks(results)
    for result in results:
        if result.task.action in ("extremes", "float32") and not result.failed:
            yield f"{result.task}: " + ", ".join(f"{key} {_short(value)}" for key, value in result.figures.items())
    yield from _timings(results)


def _short(value: object) -> str:
    return format(value, ".2g") if isinstance(value, float) else str(value)


def _checks(results: list[Result]) -> Iterator[str]:
    """One line a kernel, and one for every check that it fails."""
    for kernel in ("triton", "hopper"):
        checks = [r for r in results if r.task.action == "check" and r.task.kernel == kernel and not r.failed]
        right = [r.figures for r in checks if r.figures["ok"]]
        text = f"{len(right)} of {len(checks)} finished checks of {kernel} are right"
        if right:
            output = max(figures["output"] / figures["output_bound"] for figures in right)
            entropy = max(figures["entropy"] / figures["entropy_bound"] for figures in right)
            text += f"; largest error as a share of its bound: output {output:.2f}, entropy {entropy:.2f}"
        yield text
        for result in checks:
            if not result.figures["ok"]:
                figures = {key: _short(value) for key, value in result.figures.items()}
                yield (
                    f"WRONG  {result.task}: output {figures['output']} of {figures['output_bound']}, "
                    f"entropy {figures['entropy']} of {figures['entropy_bound']}, repeatable {figures['repeatable']}"
                )


def _timings(results: list[Result]) -> Iterator[str]:
    """A row for every time, beside that of torch's cuDNN backend at the same shape just before."""
    yield f"{'shape':16s} {'variant':36s} {'ms':>7s} {'TF/s':>5s} {'/cudnn':>6s}"
    cudnn: dict[object, float] = {}
    for result in results:
        task = result.task
        if task.shape is None or task.action not in ("time", "torch") or result.failed:
            continue
        if task.action == "torch":
            times = {name: value for name, value in result.figures.items() if isinstance(value, float)}
            if "cudnn" in times:
                cudnn[task.shape] = times["cudnn"]
        else:
            times = {f"{task.kernel} {task.variant}{'' if task.entropy else ', no entropy'}": result.figures["ms"]}
        for name, ms in times.items():
            share = f"{ms / cudnn[task.shape]:6.3f}" if task.shape in cudnn else f"{'-':>6s}"
            yield f"{task.shape!s:16s} {name:36s} {ms:7.4f} {task.shape.flops / ms / 1e9:5.0f} {share}"
