"""The child process of ``attention_variants.py``: the only one that touches the GPU.

It writes a line before and a line after every task, so that the parent sees it make progress
and knows which task a hang or a crash has cost.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

import click
import torch
import triton
from attention_variants_measure import Bench
from attention_variants_tasks import Task, tasks

__all__ = ["main"]


def _write(log: TextIO, **line: Any) -> None:
    log.write(json.dumps(line) + "\n")


def _measure(log: TextIO, start: int) -> None:
    device = torch.cuda.get_device_name()
    _write(log, device=device, torch=torch.__version__, triton=triton.__version__)
    bench = Bench()
    for index, task in enumerate(tasks()):
        if index < start:
            continue
        _write(log, started=index)
        began = time.monotonic()
        figures = _attempt(bench, task)
        seconds = round(time.monotonic() - began, 2)
        _write(log, done=index, task=dataclasses.asdict(task), figures=figures, seconds=seconds)
        # After an illegal access every later call fails as well; a new process does not.
        torch.cuda.synchronize()


def _attempt(bench: Bench, task: Task) -> dict[str, Any]:
    # Whatever goes wrong with one variant must not cost the others.
    try:
        return bench.run(task)
    except Exception as error:
        return {"error": repr(error)[:300], "trace": traceback.format_exc()[-1500:]}


def _compile(share: int, shares: int) -> None:
    bench = Bench(compile_only=True)
    for task in tasks()[share::shares]:
        if task.action != "torch":
            figures = _attempt(bench, task)
            if "error" in figures:
                sys.stderr.write(f"compiling {task}: {figures['trace']}\n")


@click.command()
@click.option("--log", type=click.Path(dir_okay=False, path_type=Path), help="Where to append the JSON lines.")
@click.option("--start", default=0, show_default=True, help="First task to run.")
@click.option("--compile-share", type=(int, int), help="Only compile the kernels of every N-th task from the I-th.")
def main(log: Path | None, start: int, compile_share: tuple[int, int] | None) -> None:
    """Run the tasks from START on, or only compile a share of their kernels."""
    if compile_share is not None:
        _compile(*compile_share)
    elif log is not None:
        with log.open("a", buffering=1) as lines:
            _measure(lines, start)
    else:
        raise click.UsageError("neither --log nor --compile-share was given, but one is needed")


if __name__ == "__main__":
    main()
