"""Builds TensorRT engines of nano and of Infinity-2B's size, verifies them against torch, and times them.

    python benchmarks/tensorrt_acceptance.py --output acceptance.json

Needs an NVIDIA GPU with about 20 GiB, a complete TensorRT (`pip install "toprovar[compile,tensorrt]"`), 40 GiB of main
memory and 30 GiB of disk. The weights of the 2B model are random, which changes no time; nano has its own. Every call
of dense and sparse generations, alone and in a batch, is compared with the model's modules in fp32, in TensorRT and in
ONNX Runtime. It exits with 1 when one is out of tolerance. `--model tiny --graphs-only` tries all but the engines on a
CPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from plans import PLANS
from random_model import SIZES, RandomModel, make_model
from rich.console import Console
from rich.table import Table
from timing import time_session

from toprovar.compiler.tensorrt.graphs import tensorrt_graphs
from toprovar.compiler.tensorrt.verify import EngineCheck
from toprovar.compiler.weights import save_graphs
from toprovar.engines import Engines
from toprovar.errors import ToProVARError
from toprovar.models.loader import load_model
from toprovar.pipeline.engine_checks import check_engine_graphs, open_runners
from toprovar.pipeline.engines import EngineRequest, Source, build_engines
from toprovar.pipeline.ranging import measure_ranges
from toprovar.plan import SparsityPlan
from toprovar.progress import Stages
from toprovar.runtime.backends.tensorrt import TensorRTBackend
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session
from toprovar.runtime.tensorrt.graphs import load_engines
from toprovar.runtime.tensorrt.installed import open_library

__all__ = ["main"]

_TEXT_TOKENS = 24
_NANO = "nano"


@click.command()
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice([_NANO, *SIZES]),
    default=(_NANO, "2b"),
    show_default=True,
    help="What to build; may be repeated.",
)
@click.option("--plan", type=click.Choice(list(PLANS)), default="keep25", show_default=True, help="What is left out.")
@click.option(
    "--precision", type=click.Choice(["bfloat16", "float32", "float8"]), default="bfloat16", show_default=True
)
@click.option("--images", type=click.IntRange(min=1), default=2, show_default=True, help="Images that run together.")
@click.option("--laps", type=click.IntRange(min=1), default=10, show_default=True, help="Generations that are timed.")
@click.option("--graphs-only", is_flag=True, help="Build no engines; compare what ONNX Runtime computes.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where to build.  [default: a temporary folder]")
@click.option("--output", type=click.Path(path_type=Path), help="JSON report.")
def main(
    models: tuple[str, ...],
    plan: str,
    precision: str,
    images: int,
    laps: int,
    graphs_only: bool,
    folder: Path | None,
    output: Path | None,
) -> None:
    """Build, verify and time."""
    console = Console(stderr=True)
    if not graphs_only:
        try:
            open_library().this_machine()
        except ToProVARError as error:
            raise click.ClickException(str(error)) from error
    report: dict[str, Any] = {"machine": _machine(), "plan": plan, "precision": precision, "models": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for name in models:
            place = (folder or Path(temporary)) / name
            try:
                report["models"][name] = _accept(name, place, plan, precision, images, laps, graphs_only)
            except ToProVARError as error:
                raise click.ClickException(str(error)) from error
            if output is not None:
                output.write_text(json.dumps(report, indent=1))
            _tell(console, name, report["models"][name])
    if any(one["failed"] for one in report["models"].values()):
        raise SystemExit(1)


def _accept(
    name: str, folder: Path, plan_name: str, precision: str, images: int, laps: int, graphs_only: bool
) -> dict[str, Any]:
    model = _model(name)
    plan = PLANS[plan_name](model)
    (folder / "graphs").mkdir(parents=True, exist_ok=True)
    with Stages() as stages:
        ranges = None
        if precision == "float8":
            ranges = measure_ranges(_session(model, plan, _torch_backend(model, plan)), [_prompt(model)], stages)
        graphs = tensorrt_graphs(
            model.loaded,
            model.record,
            plan,
            precision,
            lambda done, total: stages.progress("export", done, total),
            ranges,
        )
        with stages.stage("save"):
            save_graphs(graphs, folder / "graphs")
        engines = None
        if not graphs_only:
            digest = hashlib.sha256(plan.to_json().encode()).hexdigest()
            source = Source(folder, model.record, plan, digest, model.loaded.text_record())
            engines = build_engines(source, EngineRequest(images), stages)
        checks = _verify(model, plan, folder, engines, stages)
        times = {} if engines is None else _time(model, plan, folder, engines, laps)
        seconds = dict(stages.seconds)
    return {
        "engines": [] if engines is None else [_short(engines, index) for index in range(len(engines.files))],
        "calls": _summary(checks),
        "failed": sum(bool(one.failures) for one in checks),
        "failures": [dataclasses.asdict(one) for one in checks if one.failures][:20],
        "milliseconds": times,
        "seconds": seconds,
    }


def _model(name: str) -> RandomModel:
    if name != _NANO:
        return make_model(name, "cpu", torch.float32)
    loaded = load_model(_NANO)
    grids = loaded.schedule()
    return RandomModel(loaded, grids, loaded.record(grids))


def _prompt(model: RandomModel) -> str | np.ndarray:
    """Words where the model reads them, else features."""
    if model.loaded.text is not None:
        return "a red circle"
    channels = model.loaded.backbone.config.text_channels
    return np.random.default_rng(0).normal(size=(_TEXT_TOKENS, channels)).astype(np.float32)


def _torch_backend(model: RandomModel, plan: SparsityPlan) -> TorchBackend:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    constants = model.constants(plan.ranking)
    return TorchBackend(model.record, model.grids, constants, model.loaded, plan.pruning, device=device)


def _session(model: RandomModel, plan: SparsityPlan, backend: Any) -> Session:
    text = model.loaded.text
    return Session(backend, plan, model.loaded.sampling(len(model.grids)), None if text is None else text.token_ids)


def _verify(
    model: RandomModel, plan: SparsityPlan, folder: Path, engines: Engines | None, stages: Stages
) -> list[EngineCheck]:
    backend = _torch_backend(model, plan)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        found = open_runners(folder, Path(scratch), engines)
        if engines is not None and model.loaded.source != _NANO:
            # On a CPU an image of one megapixel takes minutes.
            found = dataclasses.replace(found, runners={"tensorrt": found.runners["tensorrt"]})
        return check_engine_graphs(folder, _session(model, plan, backend), [_prompt(model)], found, stages)


def _time(model: RandomModel, plan: SparsityPlan, folder: Path, engines: Engines, laps: int) -> dict[str, Any]:
    constants = model.constants(plan.ranking)
    loaded = load_engines(folder, engines, low_vram=False)
    times: dict[str, Any] = {}
    with TensorRTBackend(model.record, model.grids, constants, loaded, plan.pruning) as backend:
        dense = PLANS["dense"](model)
        for name, own in (("dense", dataclasses.replace(plan, scales=dense.scales)), ("sparse", plan)):
            times[name] = time_session(_session(model, own, backend), _prompt(model), laps, True, 1).to_json()
        times["peak_bytes"] = torch.cuda.max_memory_allocated()
    return times


def _short(engines: Engines, index: int) -> dict[str, Any]:
    one = engines.files[index]
    return {
        "graph": one.graph,
        "layers": one.layers,
        "seconds": one.seconds,
        "profiles": len(one.profiles),
        "device_bytes": one.device_bytes,
    }


def _summary(checks: list[EngineCheck]) -> dict[str, Any]:
    return {
        runner: {
            "calls": sum(one.runner == runner for one in checks),
            "least_equal_bits": min(
                (one.equal_bits for one in checks if one.runner == runner and one.equal_bits is not None), default=None
            ),
            "worst_relative": max(
                (output.relative for one in checks if one.runner == runner for output in one.outputs), default=None
            ),
        }
        for runner in dict.fromkeys(one.runner for one in checks)
    }


def _machine() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    with contextlib.suppress(ToProVARError):
        found["tensorrt"] = open_library().this_machine().tensorrt
    return found


def _tell(console: Console, name: str, found: dict[str, Any]) -> None:
    table = Table(title=name, show_header=False)
    for engine in found["engines"]:
        table.add_row(f"engine {engine['graph']}", f"{engine['layers']} layers, {engine['seconds']:.0f} s")
    for runner, calls in found["calls"].items():
        table.add_row(f"{runner} against torch", f"{calls['calls']} calls, {calls['least_equal_bits']:.3%} equal bits")
    table.add_row("out of tolerance", str(found["failed"]))
    for kind in ("dense", "sparse"):
        if kind in found["milliseconds"]:
            table.add_row(f"{kind} image", f"{found['milliseconds'][kind]['median_total_ms']:.1f} ms")
    console.print(table)


if __name__ == "__main__":
    main()
