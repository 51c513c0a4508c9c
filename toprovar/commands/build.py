"""`toprovar build`: build a deployment's engines on the machine that runs them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click

from toprovar.console import print_json, results

__all__ = ["command"]


@click.command(name="build")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--images", type=click.IntRange(min=1), default=4, show_default=True, help="Images at most that run together."
)
@click.option(
    "--plugin",
    type=click.Choice(["ahead-of-time", "just-in-time"]),
    default="ahead-of-time",
    show_default=True,
    help="Put the attention kernel into the engine, or let TensorRT call Python for it.",
)
@click.option("--version-compatible", is_flag=True, help="Let later versions of TensorRT run the engines.")
@click.option(
    "--hardware-compatible",
    type=click.Choice(["none", "same-compute-capability", "ampere-plus"]),
    default="none",
    show_default=True,
    help="Which other GPUs are to run the engines.",
)
@click.option("--refittable", is_flag=True, help="Let `toprovar refit` exchange the weights.")
@click.option("--stream-weights", is_flag=True, help="Let weights stay in main memory even where there is room.")
@click.option("--effort", type=click.IntRange(0, 5), help="How long to search for kernels.  [default: TensorRT's]")
@click.option("--workspace", metavar="MIB", type=click.IntRange(min=1), help="Memory for layers.  [default: all]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(
    folder: Path,
    images: int,
    plugin: str,
    version_compatible: bool,
    hardware_compatible: str,
    refittable: bool,
    stream_weights: bool,
    effort: int | None,
    workspace: int | None,
    as_json: bool,
) -> None:
    """Build the TensorRT engines of DIR.

    DIR was compiled with --backend tensorrt. Engines that are there already are replaced once all
    new ones are built. Needs an NVIDIA GPU and TensorRT, but neither the checkpoint nor a compiler.
    """
    from toprovar.compiler.tensorrt.options import BuildOptions, HardwareCompatibility
    from toprovar.deployment import PLAN, Deployment, file_sha256
    from toprovar.engines import PluginForm
    from toprovar.pipeline.engines import EngineRequest, Source, build_engines
    from toprovar.progress import Stages

    deployment = Deployment.open(folder)
    manifest = deployment.manifest
    options = BuildOptions(
        cast(PluginForm, plugin.replace("-", "_")),
        version_compatible,
        cast(HardwareCompatibility, hardware_compatible.replace("-", "_")),
        refittable,
        effort,
        None if workspace is None else workspace << 20,
    )
    source = Source(folder, manifest.model, deployment.plan, file_sha256(folder / PLAN), manifest.text)
    with Stages() as stages:
        engines = build_engines(source, EngineRequest(images, options, stream_weights), stages)
    if as_json:
        print_json(
            {
                "deployment": str(folder),
                "gpu": engines.gpu,
                "tensorrt": engines.tensorrt,
                "engines": {one.graph: {"layers": one.layers, "seconds": one.seconds} for one in engines.files},
            }
        )
        return
    results().print(
        f"{folder}: {len(engines.files)} engines for {engines.gpu}, TensorRT {engines.tensorrt}",
        *(f"  {one.graph:<8}{one.layers:>6} layers, {one.seconds:.0f} s" for one in engines.files),
        f"  next    toprovar verify {folder}; toprovar run {folder} PROMPT -o image.png --backend tensorrt",
        sep="\n",
    )
