"""Ctrl-C inside a library that makes an error of its own of it, or swallows it."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

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


@pytest.fixture
def listening() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interruption.listen()
    yield
    interruption.listen()
    signal.signal(signal.SIGINT, before[0])
    signal.signal(signal.SIGTERM, before[1])


@pytest.mark.usefixtures("listening")
def test_the_first_signal_waits_where_nothing_may_be_raised(capsys: pytest.CaptureFixture[str]) -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), interruption.deferred("the export of dense"):
        signal.raise_signal(signal.SIGINT)
        reached.append("the end")
    assert reached == ["the end"]
    assert capsys.readouterr().err == "stops after the export of dense; once more stops at once\n"


@pytest.mark.usefixtures("listening")
def test_a_second_signal_does_not_wait() -> None:
    reached = []
    with pytest.raises(KeyboardInterrupt), interruption.deferred("x"):
        signal.raise_signal(signal.SIGINT)
        reached.append("between")
        signal.raise_signal(signal.SIGINT)
        reached.append("the end")
    assert reached == ["between"]


@pytest.mark.usefixtures("listening")
def test_without_a_signal_nothing_is_raised_and_an_error_passes() -> None:
    with interruption.deferred("x"):
        pass
    with pytest.raises(ValueError, match="own"), interruption.deferred("x"):
        raise ValueError("own")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


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
