"""Ctrl-C inside a library that makes an error of its own of it, or swallows it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys

import pytest

from toprovar import interruption

PROGRAM = """
import contextlib, os, signal
import click
from toprovar import cli
from toprovar.errors import BackendError
from toprovar.progress import Stages

@click.command()
def command():
    try:
        os.kill(os.getpid(), signal.{signal})
    except BaseException as caught:
        {caught}
    with Stages() as stages:
        stages.progress("work", 0, 1)
    print("went on")

cli.run_as_program(command, "x", [])
"""


@pytest.mark.parametrize(
    "caught",
    ['raise RuntimeError("my own")', 'raise BackendError("my own") from caught', "pass"],
    ids=["a bug of the library's", "an error of ours", "swallowed"],
)
@pytest.mark.parametrize(("name", "code", "line"), [("SIGINT", 130, "error: interrupted\n"), ("SIGTERM", 143, None)])
def test_an_interruption_is_remembered(caught: str, name: str, code: int, line: str | None) -> None:
    program = PROGRAM.format(signal=name, caught=caught)
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    if line:
        assert done.stderr.endswith(line)


def test_listening_anew_forgets() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        interruption.listen()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        assert interruption.exit_code() == 130
        with pytest.raises(KeyboardInterrupt):
            interruption.stop_if_interrupted()
        interruption.listen()
        assert interruption.exit_code() is None
        interruption.stop_if_interrupted()
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])
