"""`toprovar report`: write a deployment's report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toprovar.console import print_json, results
from toprovar.engine_choice import engine_choice

if TYPE_CHECKING:
    from toprovar.runtime.backends.base import EngineOptions

__all__ = ["command"]


@click.command(name="report")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--prompts",
    metavar="N",
    type=click.IntRange(1, 8),
    default=3,
    show_default=True,
    help="How many example prompts to draw.",
)
@click.option("--no-images", is_flag=True, help="Draw and measure nothing: report what DIR holds.")
@engine_choice
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    folder: Path, prompts: int, no_images: bool, backend: str | None, options: EngineOptions, as_json: bool
) -> None:
    """Write the report of the deployment in DIR.

    Makes DIR/report/index.html, which needs no other file, and its figures beside it.
    """
    from toprovar.evaluation.report.write import write_report
    from toprovar.progress import Stages
    from toprovar.runtime.session import Session

    open_session = None if no_images else lambda: Session.open(folder, backend, options=options)
    with Stages() as stages:
        written = write_report(folder, open_session, prompts=prompts, progress=stages.progress)
    if as_json:
        print_json(
            {
                "report": str(written.page),
                "figures": [str(path) for path in written.pictures],
                "warnings": list(written.cautions),
            }
        )
        return
    warnings = [f"  warning  {line}" for line in written.cautions]
    results().print(f"{written.page}: {len(written.pictures)} figures", *warnings, sep="\n", soft_wrap=True)
