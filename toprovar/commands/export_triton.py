"""`toprovar export-triton`: write a model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path

import click

from toprovar.console import print_json, results

__all__ = ["command"]


@click.command(name="export-triton")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="REPO",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Model repository to write into.",
)
@click.option("--name", metavar="NAME", help="Name of the model.  [default: that of DIR]")
@click.option("--backend", metavar="NAME", help="Where to run.  [default: as compiled]")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images that run together.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(folder: Path, output: Path, name: str | None, backend: str | None, batch: int, as_json: bool) -> None:
    """Write DIR into a Triton model repository.

    The deployment in DIR becomes a model for Triton Inference Server. The server needs its Python
    backend, and this package in that backend's environment.
    """
    from toprovar.triton_repository import export_triton

    model = export_triton(folder, output, name, backend, batch)
    if as_json:
        print_json({"model": str(model), "name": model.name})
        return
    results().print(f"{model}: tritonserver --model-repository {output}", markup=False, soft_wrap=True)
