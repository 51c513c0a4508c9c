"""`toprovar compile`: calibrate, plan, export, build and verify a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toprovar.console import print_json, results
from toprovar.engine_choice import precision_option
from toprovar.manifest import Precision

__all__ = ["command"]


@click.command(name="compile")
@click.argument("model")
@click.option(
    "-o",
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    required=True,
    help="The deployment folder to write.",
)
@click.option(
    "--vae",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Checkpoint of the image tokenizer, where MODEL does not hold it.",
)
@click.option(
    "--text-encoder",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the text encoder, where MODEL does not hold it.",
)
@click.option(
    "--prompts",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Calibration prompts, one a line.  [default: the model's own]",
)
@click.option("--backend", metavar="NAME", default="onnxruntime", show_default=True, help="Where it will run.")
@precision_option
@click.option("--portable", is_flag=True, help="Leave out what is built for this machine's GPU, such as engines.")
@click.option("--policy", metavar="NAME", default="toprovar", show_default=True, help="What decides the plan.")
@click.option(
    "--target-flops",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.55,
    show_default=True,
    help="Transformer FLOPs to aim at, as a share of dense.",
)
@click.option(
    "--target-speedup",
    type=click.FloatRange(1, min_open=True),
    help="Aim at being this many times faster than dense on this machine instead; measured.",
)
@click.option(
    "--max-quality-drop",
    type=click.FloatRange(0, 1),
    help="Save as much as costs at most this much of the score of the model's suite instead; measured.",
)
@click.option(
    "--set",
    "settings",
    metavar="NAME=VALUE",
    multiple=True,
    help="A parameter of the policy; may be repeated.",
)
@click.option("--aspect-ratio", metavar="W:H", default="1:1", show_default=True, help="Image shape.")
@click.option(
    "--resolution",
    type=click.Choice(["0.06M", "0.25M", "0.60M", "1M"]),
    help="Image size in pixels.  [default: 0.25M for nano, else 1M]",
)
@click.option(
    "--cfg-insertion-layer",
    "cfg_insertion_layers",
    metavar="INT",
    type=click.IntRange(max=0),
    multiple=True,
    default=(0,),
    show_default=True,
    help="Where guidance is applied: 0 for the logits, -n for the n-th layer from the end; may be repeated.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the calibration's sampling.",
)
@click.option("--force", is_flag=True, help="Replace an existing deployment.")
@click.option("--no-verify", is_flag=True, help="Do not run what was built against the model.")
@click.option("--no-report", is_flag=True, help="Do not draw examples and write the report.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    model: str,
    output: Path,
    vae: Path | None,
    text_encoder: Path | None,
    prompts: Path | None,
    backend: str,
    precision: Precision | None,
    portable: bool,
    policy: str,
    target_flops: float,
    target_speedup: float | None,
    max_quality_drop: float | None,
    settings: tuple[str, ...],
    aspect_ratio: str,
    resolution: str | None,
    cfg_insertion_layers: tuple[int, ...],
    seed: int,
    force: bool,
    no_verify: bool,
    no_report: bool,
    as_json: bool,
) -> None:
    """Compile MODEL into a deployment folder.

    Calibrates, plans the sparsity, exports, builds for the backend, and verifies.

    MODEL is `nano`, a checkpoint (.pt, .pth, .safetensors) or a folder of shards.
    """
    from toprovar.pipeline.compile import compile_model
    from toprovar.pipeline.targets import Target

    if target_speedup is not None and max_quality_drop is not None:
        raise click.UsageError("--target-speedup and --max-quality-drop exclude one another")
    summary = compile_model(
        model,
        output,
        vae=vae,
        text_encoder=text_encoder,
        prompts=prompts,
        backend=backend,
        precision=precision,
        portable=portable,
        policy=policy,
        parameters=_parameters(settings),
        target=Target(target_speedup, max_quality_drop, target_flops),
        aspect_ratio=aspect_ratio,
        resolution=resolution,
        cfg_insertion_layers=cfg_insertion_layers,
        seed=seed,
        force=force,
        verify=not no_verify,
        report=not no_report,
    )
    if as_json:
        print_json(summary)
        return
    height, width = summary["image"]
    results().print(
        f"{output}: {model} at {width} x {height} pixels, policy {policy}",
        f"  transformer FLOPs  {summary['expected_flops']:.1%} of dense, averaged over the calibration prompts",
        f"  verified           {_verified(summary, no_verify)}",
        *([] if no_report else [f"  report             {output / 'report' / 'index.html'}"]),
        f"  next               {_next(output, summary['runs_here'])}",
        sep="\n",
    )


def _parameters(settings: tuple[str, ...]) -> dict[str, str]:
    pairs = [setting.partition("=") for setting in settings]
    for (name, equals, _), setting in zip(pairs, settings, strict=True):
        if not name or not equals:
            raise click.BadParameter(f"expected NAME=VALUE, got {setting!r}", param_hint="--set")
    return {name: value for name, _, value in pairs}


def _next(output: Path, runs_here: bool) -> str:
    if not runs_here:
        return f"toprovar build {output}, on the machine that is to run it"
    return f"toprovar run {output} PROMPT -o image.png; toprovar inspect {output}"


def _verified(summary: dict[str, Any], no_verify: bool) -> str:
    if not summary["verified_calls"]:
        return "nothing, as --no-verify asked" if no_verify else "nothing, since the model's own modules run"
    return (
        f"{summary['verified_calls']} calls against torch: largest error {summary['worst_error']:.1e}, "
        f"at least {summary['least_equal_bits']:.2%} equal bits"
    )
