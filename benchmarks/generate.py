"""Times whole generations of Infinity, dense and at several plans, beside the eager backend and the peers' code.

    python benchmarks/generate.py --model 2b --output generate.json --plot generate.png

Weights are random, which changes no time, and text features are given, so that no text encoder runs. ``eager`` is the
model's own modules in fp32, whatever the precision of the others. Every figure is
a median over warm calls of a session; per scale the device's clock is read at the end of every step. ``--model tiny
--device cpu`` tries it without a GPU.

What is timed: of a session, from text features on the host to the picture on the host, as bytes and as float32, noise
drawn on the host and image decoder included; Pillow's copy of a picture is made when it is asked for, and nobody asks.
Of a peer, whatever its harness times: from text features on the device to a picture there, as bytes, noise and image
decoder included, and no copy to the host.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from peers import time_peer
from plans import PLANS
from profiling import profile
from random_model import SIZES, RandomModel, make_model
from rich.console import Console
from rich.table import Table
from timing import Timing, time_session

from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.session import Session

__all__ = ["main"]

_TEXT_TOKENS = 24
_DEFAULT = ("dense", "keep25", "fastvar", "eager")
_MIB = 2**20


def _session(model: RandomModel, name: str, options: RuntimeOptions | None, device: str) -> Session:
    plan = PLANS["dense" if name == "eager" else name](model)
    runtime = None if name == "eager" else options
    constants = model.constants(plan.ranking)
    backend = TorchBackend(
        model.record, model.grids, constants, model.loaded, plan.pruning, device=device, runtime=runtime
    )
    return Session(backend, plan, model.loaded.sampling(len(model.grids)), None)


def _time_plan(
    model: RandomModel,
    name: str,
    options: RuntimeOptions,
    device: str,
    laps: int,
    batch: int,
    profiled: bool,
    console: Console,
) -> tuple[Timing, dict[str, Any]]:
    cuda = device == "cuda"
    features = np.random.default_rng(0).normal(size=(_TEXT_TOKENS, model.loaded.backbone.config.text_channels))
    features = features.astype(np.float32)
    started = time.perf_counter()
    with _session(model, name, options, device) as session:
        loading = (time.perf_counter() - started) * 1000
        timing = time_session(session, features, 2 if name == "eager" and cuda else laps, cuda, batch)
        facts: dict[str, Any] = {"name": name, "policy": session.plan.policy, "loading_ms": loading}
        facts["flops_ratio"] = session.plan.cost.ratio
        if profiled and cuda:
            facts["kernels"] = [dataclasses.asdict(one) for one in profile(functools.partial(session, features))]
            _print_kernels(name, facts["kernels"], console)
    return timing, facts | timing.to_json()


def _free(device: str) -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _print_kernels(name: str, kernels: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(title=f"{name}: kernels")
    for column in ("kernel", "ms", "launches"):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for one in kernels[:25]:
        table.add_row(str(one["name"])[:90], f"{one['milliseconds']:.2f}", str(one["launches"]))
    total = sum(float(one["milliseconds"]) for one in kernels)
    table.add_row("all", f"{total:.2f}", str(sum(int(one["launches"]) for one in kernels)))
    console.print(table)


def _print_summary(results: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = Table(title="milliseconds an image, medians")
    for column in (
        "what",
        "total",
        "least",
        "most",
        "device",
        "scales 1-9",
        "scales 10-",
        "decode",
        "cold",
        "peak MiB",
    ):
        table.add_column(column, justify="left" if column == "what" else "right")
    for one in results:
        totals = [lap["total"] for lap in one["laps"]]
        scales = one["median_scales_ms"]
        peak = "" if one["peak_bytes"] is None else f"{one['peak_bytes'] / _MIB:.0f}"
        table.add_row(
            one["name"],
            *(f"{value:.1f}" for value in (one["median_total_ms"], min(totals), max(totals), one["median_device_ms"])),
            *(f"{value:.1f}" for value in (sum(scales[:9]), sum(scales[9:]), one["median_decode_ms"], one["cold"])),
            peak,
        )
    console.print(table)
    for one in results:
        console.print(f"{one['name']}: " + " ".join(f"{value:.2f}" for value in one["median_scales_ms"]))


@click.command()
@click.option("--model", "size", type=click.Choice(list(SIZES)), default="2b", show_default=True)
@click.option("--only", multiple=True, type=click.Choice([*PLANS, "eager"]), help="What to time; all if left out.")
@click.option("--precision", type=click.Choice(["bf16", "fp8", "fp32"]), help="[default: bf16; fp32 on a CPU]")
@click.option("--laps", default=7, show_default=True, help="Warm generations of each.")
@click.option("--batch", default=1, show_default=True, help="Images that run together.")
@click.option("--round-kept", default=1, show_default=True, help="Kept counts are rounded up to a multiple of this.")
@click.option("--captured/--uncaptured", default=True, help="Replay CUDA graphs, or run the same calls one by one.")
@click.option("--low-vram", is_flag=True, help="Keep the image decoder off the device while it does not work.")
@click.option("--device", default="cuda", show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="Print the kernels of one generation of each.")
@click.option("--harness", type=click.Path(exists=True, path_type=Path), help="Script that times a peer's package.")
@click.option("--peer-official", type=click.Path(exists=True, path_type=Path), help="Folder of the official package.")
@click.option("--peer-fastvar", type=click.Path(exists=True, path_type=Path), help="Folder of FastVAR's package.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON file for all figures.")
@click.option("--plot", type=click.Path(path_type=Path), help="PNG file for a chart of the parts.")
def main(
    size: str,
    only: tuple[str, ...],
    precision: Any,
    laps: int,
    batch: int,
    round_kept: int,
    captured: bool,
    low_vram: bool,
    device: str,
    profiled: bool,
    harness: Path | None,
    peer_official: Path | None,
    peer_fastvar: Path | None,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Time generations on this machine."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.UsageError("no CUDA device was found; try --model tiny --device cpu --precision fp32")
    if (peer_official or peer_fastvar) and not harness:
        raise click.UsageError("a peer needs the script that times it: --harness FILE")
    console = Console(width=150)
    options = RuntimeOptions(precision or "bf16", captured, round_kept=round_kept, low_vram=low_vram)
    if device == "cpu":
        options = dataclasses.replace(
            RuntimeOptions.plain(), precision=precision or "fp32", round_kept=round_kept, low_vram=low_vram
        )
    model = make_model(size, device, options.dtype)
    results: list[dict[str, Any]] = []
    for name in only or _DEFAULT:
        if name == "eager":
            model.loaded.backbone.float()
        timing, facts = _time_plan(model, name, options, device, laps, batch, profiled, console)
        _free(device)
        results.append(facts)
        console.print(f"{name}: {timing.median('total'):.1f} ms", highlight=False)
    report = {"model": size, "precision": options.precision, "batch": batch, "weights": "random", **_machine(device)}
    report["results"] = results
    del model
    _free(device)
    peers = {"official": peer_official, "fastvar code": peer_fastvar}
    report["peers"] = {
        name: time_peer(harness, folder, size) for name, folder in peers.items() if folder is not None and harness
    }
    _print_summary(results, console)
    for name, figures in report["peers"].items():
        console.print(f"{name}: {figures['median_s'] * 1000:.0f} ms", highlight=False)
    if output is not None:
        output.write_text(json.dumps(report, indent=1) + "\n")
    if plot is not None:
        from chart import draw

        draw(report, plot)


def _machine(device: str) -> dict[str, Any]:
    import triton

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "triton": triton.__version__}


if __name__ == "__main__":
    main()
