"""What goes where: results to stdout, everything else to stderr."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping

from rich.console import Console

__all__ = ["diagnostics", "print_json", "remark", "remark_once", "results"]


def diagnostics() -> Console:
    """The console for progress and remarks, on stderr."""
    return Console(stderr=True)


def remark(line: str) -> None:
    """Prints a line on stderr as it is, one line whatever its length."""
    diagnostics().print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


@functools.cache
def remark_once(line: str) -> None:
    """The same, unless this process has printed it before."""
    remark(line)


def results() -> Console:
    """The console for a command's result, on stdout.

    Names from files are printed as they are, never as markup; tables keep their width in a pipe.
    """
    width = None if sys.stdout.isatty() else 160
    return Console(width=width, markup=False, emoji=False, highlight=False)


def print_json(result: Mapping[str, object]) -> None:
    """Prints a command's result as the one JSON object on stdout."""
    print(json.dumps(result, allow_nan=False, indent=2), file=sys.stdout)
