"""Variants of the FlashAttentionEntropy kernels on a Hopper GPU: correctness first, then times.

    python benchmarks/attention_variants.py --limit 150 --output variants.json

Needs one H100 or H200, and nothing installed but torch, Triton and click. This process never
touches the GPU. It first lets a few processes fill Triton's cache; then a child works through
the tasks of ``attention_variants_tasks.py`` and appends JSON lines to variants.jsonl, beside
the output; its complaints go to variants.log. A child that writes nothing for a while is
killed, and another goes on after the task it was at. A child whose task broke the CUDA context
ends itself, and another goes on likewise. The table is printed last.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

import click
from attention_variants_report import lines, read_log, write_report
from attention_variants_tasks import tasks

__all__ = ["main"]

_FOLDER = Path(__file__).resolve().parent
_WORKER = _FOLDER / "attention_variants_worker.py"
#: Seconds without a line in the log after which a child is taken to hang.
_STALL = 40
#: Processes that compile, and seconds that they get at most.
_COMPILERS = 10
_COMPILE_SECONDS = 70
#: Children in a row that may end before their first task.
_FALSE_STARTS = 3


def _link_package(folder: Path) -> dict[str, str]:
    """Make the checkout's operators importable as ``toprovar.plugins``, installed or not.

    Args:
        folder: An empty folder.

    Returns:
        The environment of a child that finds them there.
    """
    package = folder / "toprovar"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "plugins").symlink_to(_FOLDER.parent / "plugins", target_is_directory=True)
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def _start(environment: dict[str, str], complaints: TextIO, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(_WORKER), *arguments]
    return subprocess.Popen(command, env=environment, stdout=complaints, stderr=complaints)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        click.echo(f"process {process.pid} does not end; going on without it", err=True)


def _compile(environment: dict[str, str], complaints: TextIO, deadline: float) -> None:
    """Fill Triton's cache with several processes, so that no time is spent on it later."""
    processes = [
        _start(environment, complaints, "--compile-share", str(share), str(_COMPILERS)) for share in range(_COMPILERS)
    ]
    try:
        for process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                click.echo("a compiling process ran out of time")
    finally:
        for process in processes:
            if process.poll() is None:
                _kill(process)


def _run_child(environment: dict[str, str], complaints: TextIO, log: Path, start: int, deadline: float) -> int | None:
    """Let a child run the tasks from ``start`` on.

    Returns:
        Its exit status, 0 once all tasks are done, or None if it was killed.
    """
    process = _start(environment, complaints, "--log", str(log), "--start", str(start))
    size, changed = log.stat().st_size, time.monotonic()
    try:
        while process.poll() is None:
            time.sleep(0.25)
            now = time.monotonic()
            if log.stat().st_size != size:
                size, changed = log.stat().st_size, now
            if now - changed > _STALL or now > deadline:
                return None
        return process.returncode
    finally:
        if process.poll() is None:
            _kill(process)


def _run_tasks(environment: dict[str, str], complaints: TextIO, log: Path, deadline: float) -> list[int]:
    """Run all tasks, with as many children as it takes.

    Returns:
        Indices of the tasks that hung or crashed.
    """
    listed = tasks()
    lost: list[int] = []
    start, false_starts = 0, 0
    while start < len(listed) and time.monotonic() < deadline and false_starts < _FALSE_STARTS:
        status = _run_child(environment, complaints, log, start, deadline)
        progress = read_log(log)
        if status == 0 or time.monotonic() > deadline:
            break
        if progress.started < start:
            false_starts += 1
            continue
        false_starts = 0
        if progress.started not in progress.results:
            lost.append(progress.started)
            how = "hung" if status is None else f"crashed with status {status}"
            click.echo(f"task {progress.started}, {listed[progress.started]}, {how}")
        start = progress.started + 1
    return lost


@click.command()
@click.option(
    "--limit", default=150.0, show_default=True, help="Seconds for everything; what still runs then is killed."
)
@click.option("--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
def main(limit: float, output: Path) -> None:
    """Check and time variants of the FlashAttentionEntropy kernels on this GPU."""
    began = time.monotonic()
    output.parent.mkdir(parents=True, exist_ok=True)
    log, complaints_path = output.with_suffix(".jsonl"), output.with_suffix(".log")
    log.write_text("")
    with tempfile.TemporaryDirectory() as folder, complaints_path.open("w") as complaints:
        environment = _link_package(Path(folder))
        _compile(environment, complaints, began + min(_COMPILE_SECONDS, limit / 2))
        click.echo(f"compiled in {time.monotonic() - began:.0f} s")
        lost = _run_tasks(environment, complaints, log, began + limit)
    progress, seconds = read_log(log), time.monotonic() - began
    write_report(output, progress, lost, seconds)
    if not progress.results:
        raise click.ClickException(
            f"no task was finished: this needs a Hopper GPU, torch and Triton; {complaints_path} says why"
        )
    for line in lines(progress, lost, seconds):
        click.echo(line)


if __name__ == "__main__":
    main()
