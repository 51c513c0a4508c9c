"""`toprovar run`: generate images with a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from toprovar.console import print_json
from toprovar.engine_choice import engine_choice

if TYPE_CHECKING:
    from toprovar.runtime.backends.base import EngineOptions

__all__ = ["command"]


def _numbers(context: click.Context, option: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Reads `3` or `1,1.5,3`."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"expected numbers with commas between, got {text!r}") from None


@click.command(name="run")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("prompts", metavar="[PROMPT]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    type=click.Path(path_type=Path),
    required=True,
    help="Image file, or folder for several images.",
)
@click.option("--negative-prompt", metavar="TEXT", help="What the images should not show.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="First image's seed.")
@click.option(
    "--images-per-prompt",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Images for each prompt, with consecutive seeds.",
)
@click.option(
    "--guidance", metavar="FLOAT[,...]", callback=_numbers, help="Guidance scale: one, or one for each scale."
)
@click.option("--tau", type=click.FloatRange(0, min_open=True), help="Temperature of the logits.")
@click.option("--top-k", type=click.IntRange(min=0), help="Most likely codes to sample; 0 for all.")
@click.option("--top-p", type=click.FloatRange(0, 1), help="Probability mass to sample from.")
@engine_choice
@click.option("--dense", is_flag=True, help="Compute every token.")
@click.option("--grid", is_flag=True, help="Write one picture: dense beside sparse, with both times.")
@click.option("--demo", is_flag=True, help="Use eight prompts of the model's own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    folder: Path,
    prompts: tuple[str, ...],
    output: Path,
    negative_prompt: str | None,
    seed: int,
    images_per_prompt: int,
    guidance: tuple[float, ...] | None,
    tau: float | None,
    top_k: int | None,
    top_p: float | None,
    backend: str | None,
    options: EngineOptions,
    dense: bool,
    grid: bool,
    demo: bool,
    as_json: bool,
) -> None:
    """Generate images with the deployment in DIR.

    Makes an image, or several, for each PROMPT.
    """
    from toprovar.generation import Options, generate

    sampling = Options(negative_prompt, seed, images_per_prompt, guidance, tau, top_k, top_p)
    summary = generate(
        folder, prompts, output, sampling, backend=backend, engine=options, dense=dense, grid=grid, demo=demo
    )
    if as_json:
        print_json(summary)
