"""`toprovar verify`: run a deployment against the reference it was made from."""

from __future__ import annotations

from pathlib import Path

import click

from toprovar.console import print_json

__all__ = ["command"]


@click.command(name="verify")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--prompts",
    metavar="N",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="How many prompts to compare.",
)
@click.option("--model", metavar="MODEL", help="The checkpoint.  [default: as compiled]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(folder: Path, prompts: int, model: str | None, as_json: bool) -> None:
    """Compare the deployment in DIR with its model.

    Exits with 1 when it misses a tolerance.
    """
    from toprovar.verification import verify

    summary = verify(folder, prompts, model)
    if as_json:
        print_json(summary)
