"""Times the calibration of Infinity with random weights: what a user waits for before a plan can be made.

    python benchmarks/calibration.py --model 2b --prompts 64 --output calibration.json

Weights and the features of the prompts are random, which changes no time. Nothing is resumed: the journal is kept in
a folder of its own. ``--model tiny`` tries it without a GPU.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import click
import torch
from random_model import SIZES, RandomText, make_model
from rich.console import Console
from rich.table import Table

from toprovar.machine import describe_processor
from toprovar.pipeline.calibrating import calibrated
from toprovar.pipeline.subject import Subject
from toprovar.progress import Stages

__all__ = ["main"]

_GIB = 2**30


def _subject(name: str) -> Subject:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = make_model(name, device, torch.float32)
    config = model.loaded.backbone.config
    text = RandomText(config.text_channels, config.text_max_tokens)
    return Subject(dataclasses.replace(model.loaded, text=text), text, model.record, model.grids)


@click.command(help=__doc__)
@click.option("--model", type=click.Choice(sorted(SIZES)), default="2b", show_default=True)
@click.option("--prompts", type=click.IntRange(1), default=64, show_default=True)
@click.option("--probes", help="Restoration to measure sensitivities with; none are measured without.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="JSON file to write.")
def main(model: str, prompts: int, probes: str | None, output: Path | None) -> None:
    """Calibrates once."""
    subject = _subject(model)
    texts = [f"a picture of number {index} with some more words to read" for index in range(prompts)]
    with tempfile.TemporaryDirectory() as folder, Stages() as stages:
        os.environ["XDG_CACHE_HOME"] = folder
        started = time.perf_counter()
        made = calibrated(subject, texts, 0, stages, Path(folder) / "table.safetensors", probes)
        seconds = time.perf_counter() - started
    on_gpu = subject.device.type == "cuda"
    runtime = subject.runtime()
    facts = {
        "model": f"Infinity-{model}, random weights",
        "machine": torch.cuda.get_device_name() if on_gpu else describe_processor(),
        "engine": "modules in fp32" if runtime is None else f"runtime in {runtime.precision}",
        "prompts": prompts,
        "probes": probes,
        "seconds": seconds,
        "parts": dict(made.stats.seconds),
        "peak_gib": (
            torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        / _GIB,
    }
    where = f"{facts['engine']} on {facts['machine']}"
    table = Table("part", "seconds", title=f"{facts['model']}: {prompts} prompts, {where}")
    for part, taken in [*made.stats.seconds.items(), ("all", seconds)]:
        table.add_row(part, f"{taken:.1f}")
    Console().print(table)
    Console().print(f"peak memory {facts['peak_gib']:.1f} GiB")
    if output is not None:
        output.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
