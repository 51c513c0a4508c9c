"""`toprovar study`: answer a question about the method by a measurement."""

from __future__ import annotations

from pathlib import Path

import click

from toprovar.console import print_json, results
from toprovar.studies.catalogue import titles

__all__ = ["command"]


class _Listing(click.Command):
    """Lists the studies below the options."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Studies"):
            formatter.write_dl(list(titles().items()))


@click.command(name="study", cls=_Listing)
@click.argument("name")
@click.option("--model", metavar="MODEL", default="nano", show_default=True, help="As of `toprovar compile`.")
@click.option("--resolution", metavar="SIZE", help="As of `toprovar compile`; the model's own if left out.")
@click.option("--suite", metavar="NAME", default="shapes", show_default=True, help="What judges the images.")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), help="Use N prompts of the suite at most.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the calibration.")
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "torch"]),
    default="onnxruntime",
    show_default=True,
    help="Engine that draws; torch runs the model itself.",
)
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("build/studies"),
    show_default=True,
    help="Folder for NAME.json and NAME.png; DIR/report/studies of a deployment puts them into its report.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    name: str,
    model: str,
    resolution: str | None,
    suite: str,
    limit: int | None,
    seed: int,
    backend: str,
    output: Path,
    as_json: bool,
) -> None:
    """Run the study NAME and write its table and picture."""
    from toprovar.studies.run import print_study, run_study

    made = run_study(
        name, output, model=model, resolution=resolution, suite=suite, limit=limit, seed=seed, backend=backend
    )
    if as_json:
        print_json(made)
        return
    print_study(made)
    results().print(made["question"], made["caption"], output / f"{name}.png", sep="\n", soft_wrap=True)
