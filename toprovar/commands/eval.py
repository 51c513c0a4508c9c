"""`toprovar eval`: score a deployment's images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toprovar.console import print_json
from toprovar.engine_choice import engine_choice

if TYPE_CHECKING:
    from toprovar.runtime.backends.base import EngineOptions

__all__ = ["command"]


@click.command(name="eval")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--suite", metavar="NAME", default="shapes", show_default=True, help="What to score.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Use N prompts at most.")
@click.option("--dense", is_flag=True, help="Compute every token.")
@engine_choice
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Report to write.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    folder: Path,
    suite: str,
    limit: int | None,
    dense: bool,
    backend: str | None,
    options: EngineOptions,
    output: Path | None,
    as_json: bool,
) -> None:
    """Score the images of the deployment in DIR.

    Generates an image for every prompt of a suite and scores it.
    """
    from toprovar.scoring import evaluate

    summary = evaluate(folder, suite=suite, limit=limit, dense=dense, backend=backend, engine=options, output=output)
    if as_json:
        print_json(summary)
