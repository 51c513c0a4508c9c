"""`toprovar refit`: a deployment with a LoRA in its weights."""

from __future__ import annotations

from pathlib import Path

import click

from toprovar.console import print_json, results

__all__ = ["command"]


@click.command(name="refit")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--lora",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="LoRA, a safetensors file.",
)
@click.option("--strength", type=float, default=1.0, show_default=True, help="Factor of the LoRA.")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    required=True,
    help="The deployment folder to write.",
)
@click.option("--force", is_flag=True, help="Replace an existing deployment.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(folder: Path, lora: Path, strength: float, output: Path, force: bool, as_json: bool) -> None:
    """Write a deployment like DIR with a LoRA in its weights.

    DIR was compiled with --backend tensorrt. Engines are refitted, which needs those of
    `toprovar build --refittable`; without engines the graphs alone change. The plan stays as it is.
    """
    from toprovar.pipeline.refitting import add_lora
    from toprovar.progress import Stages

    with Stages() as stages:
        changed = add_lora(folder, lora, output, strength, force, stages)
    if as_json:
        print_json({"deployment": str(output), "weights": dict(changed)})
        return
    results().print(f"{output}: {sum(changed.values())} weights changed")
