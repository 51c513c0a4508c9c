"""The command line: finds the commands, and turns this project's errors into one line."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from toprovar import __version__
from toprovar.errors import ToProVARError
from toprovar.extensions import COMMANDS
from toprovar.extras import naming_extras

__all__ = ["compile_main", "group", "main", "run", "run_as_program"]

_TERMINATED = 128 + signal.SIGTERM
_INTERRUPTED = 128 + signal.SIGINT
_BROKEN_PIPE = 141


class _Commands(click.Group):
    """Imports a command when it is used: `--help` needs the base dependencies alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS.names())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        command = COMMANDS.load(cmd_name)
        if not isinstance(command, click.Command):
            raise TypeError(f"toprovar.commands.{cmd_name}.command is no click command")
        return command


@click.group(cls=_Commands)
@click.version_option(__version__, package_name="toprovar", prog_name="toprovar")
def group() -> None:
    """Compile and prune next-scale image generators, and run them."""


def main() -> None:
    """Runs `toprovar`."""
    run_as_program(group, "toprovar", sys.argv[1:])


def compile_main() -> None:
    """Runs `toprovar-compile`, which is `toprovar compile`."""
    command = group.get_command(click.Context(group), "compile")
    run_as_program(command, "toprovar-compile", sys.argv[1:])


def run(command: click.Command, name: str, arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code.

    Errors of this project and of click's parser become one line on stderr; a bug keeps its
    traceback.

    Args:
        command: A command or the group of all.
        name: The program's name in messages.
        arguments: The command line without the program's name.
    """
    try:
        with naming_extras(), command.make_context(name, list(arguments)) as context:
            command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(_one_line(error, name), error.exit_code)
    except ToProVARError as error:
        return _fail(error.one_line(), error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _fail("error: interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    return 0


def run_as_program(command: click.Command, name: str, arguments: Sequence[str]) -> NoReturn:
    """As `run`, for a process of its own: SIGTERM cleans up as Ctrl-C does, and the process ends."""
    signal.signal(signal.SIGTERM, _terminate)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A prompt may hold letters that the terminal's encoding does not have.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(command, name, arguments))


def _terminate(number: int, frame: FrameType | None) -> None:
    # As an exception, so that context managers remove what is half-written.
    sys.exit(_TERMINATED)


def _fail(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


def _one_line(error: click.ClickException, name: str) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else name
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"error: {message[:1].lower()}{message[1:]}; see '{path} --help'"
