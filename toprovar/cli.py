"""The command line: finds the commands, and turns this project's errors into one line."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from toprovar import __version__, interruption
from toprovar.errors import ToProVARError
from toprovar.extensions import COMMANDS
from toprovar.extras import naming_extras

__all__ = ["compile_main", "group", "main", "run", "run_as_program"]

_INTERRUPTED = "error: interrupted"
_BROKEN_PIPE = 141


class _Commands(click.Group):
    """Imports a command when it is used: `--help` needs the base dependencies alone."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name.replace("_", "-") for name in COMMANDS.names()]

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
    except KeyboardInterrupt:
        return _fail(_INTERRUPTED, 128 + signal.SIGINT)
    except Exception as error:
        code = interruption.exit_code()
        # torch.export reports Ctrl-C within itself as an error of its own.
        return _report(error, name) if code is None else _fail(_INTERRUPTED, code)
    return 0


def _report(error: Exception, name: str) -> int:
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.exceptions.NoArgsIsHelpError():
            error.show()
            return error.exit_code
        case click.ClickException():
            return _fail(_one_line(error, name), error.exit_code)
        case ToProVARError():
            return _fail(error.one_line(), error.exit_code)
        case click.Abort():
            return _fail(_INTERRUPTED, 128 + signal.SIGINT)
        case BrokenPipeError():
            # Python flushes stdout once more when it ends, which would fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _BROKEN_PIPE
        case _:
            raise error


def run_as_program(command: click.Command, name: str, arguments: Sequence[str]) -> NoReturn:
    """As `run`, for a process of its own: SIGTERM cleans up as Ctrl-C does, and the process ends."""
    interruption.listen()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A prompt may hold letters that the terminal's encoding does not have.
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(command, name, arguments))


def _fail(line: str, code: int) -> int:
    print(line, file=sys.stderr)
    return code


def _one_line(error: click.ClickException, name: str) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else name
    message = " ".join(error.format_message().split()).rstrip(".")
    return f"error: {message[:1].lower()}{message[1:]}; see '{path} --help'"
