"""The options by which commands choose an engine and how it works."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, get_args

import click

from toprovar.manifest import Precision

__all__ = ["engine_choice", "precision_option"]

_Function = Callable[..., Any]


def precision_option(function: _Function) -> _Function:
    """Adds ``--precision``."""
    return click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        help="What to compute in, on a GPU.  [default: as compiled, else bf16]",
    )(function)


def engine_choice(function: _Function) -> _Function:
    """Adds ``--backend``, ``--precision`` and ``--low-vram``; the command gets `backend` and `options`.

    `options` are `toprovar.runtime.backends.base.EngineOptions`.
    """

    @functools.wraps(function)
    def with_options(*arguments: Any, precision: Precision | None, low_vram: bool, **others: Any) -> Any:
        from toprovar.runtime.backends.base import EngineOptions

        return function(*arguments, options=EngineOptions(precision, low_vram), **others)

    low_vram_option = click.option(
        "--low-vram", is_flag=True, help="Keep text encoder and image decoder off the GPU while they do not work."
    )
    backend_option = click.option("--backend", metavar="NAME", help="Where to run.  [default: as compiled]")
    return backend_option(precision_option(low_vram_option(with_options)))
