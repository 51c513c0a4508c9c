"""Trains nano on every visible GPU.

``python -m toprovar.models.nano.train tokenizer|transformer|all --out DIR --seconds N``

A run may take several calls: each saves as it goes and when its time is over, and ``--resume`` goes on.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import click
import torch
from torch.distributed.run import main as run_processes

from toprovar.errors import ToProVARError
from toprovar.models.nano import settings
from toprovar.models.nano.data import start_workers
from toprovar.models.nano.train_tokenizer import TokenizerSettings, train_tokenizer
from toprovar.models.nano.train_transformer import TransformerSettings, train_transformer
from toprovar.models.nano.training import Plan, Processes

__all__ = ["main"]

_TOKENIZER_SHARE = 0.3
"""Part of the seconds that `all` gives to the tokenizer."""
_TOKENIZER_RATE = 1e-3
_TRANSFORMER_RATE = 1.5e-3
_RESERVE = 25.0
"""Seconds of a call that are kept for its last save and evaluation."""

_SHARED = (
    click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of weights, pictures, state."),
    click.option("--seconds", type=float, required=True, help="Length of the schedule, over all calls."),
    click.option("--resume", is_flag=True, help="Go on from the state in --out, or else from the weights there."),
    click.option("--stop-after", type=float, help="Seconds after which this call has saved and ended."),
    click.option("--finish", is_flag=True, help="Fit what is left of the schedule into --stop-after."),
    click.option("--save-every", default=60.0, show_default=True, help="Seconds between two saves."),
    click.option("--evaluate-every", default=240.0, show_default=True, help="Seconds between two evaluations."),
    click.option("--pool", default=65536, show_default=True, help="Scenes a process."),
    click.option("--workers", default=7, show_default=True, help="Processes on the CPU for each that trains."),
    click.option("--compile/--no-compile", "compiled", default=True, show_default=True),
    click.option("--began", type=float, hidden=True, help="When the command was given, in seconds of time.time."),
)


@contextlib.contextmanager
def _distributed() -> Iterator[Processes]:
    """Joins the processes that torchrun started; without torchrun there is one."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = True
    if size > 1:
        torch.distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Processes(device, rank, size)
    finally:
        if size > 1:
            torch.distributed.destroy_process_group()


def _command(function: Callable[..., None]) -> click.Command:
    """A command with the shared options that runs in one process a GPU."""

    @functools.wraps(function)
    def call(began: float | None, stop_after: float | None, **options: Any) -> None:
        if options["finish"] and stop_after is None:
            raise click.UsageError("--finish needs --stop-after: the time into which the rest is to fit")
        began = time.time() if began is None else began
        if torch.cuda.device_count() > 1 and "RANK" not in os.environ:
            _run_on_every_gpu(began)
            return
        stop_at = math.inf if stop_after is None else began + stop_after - _RESERVE
        try:
            with _distributed() as processes, start_workers(options.pop("workers")) as workers:
                function(processes, workers, stop_at=stop_at, **options)
        except ToProVARError as error:
            raise click.ClickException(str(error)) from error

    for option in reversed(_SHARED):
        option(call)
    return click.command(function.__name__.strip("_"))(call)


def _run_on_every_gpu(began: float) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--nproc-per-node", str(torch.cuda.device_count()), "--master-port", str(port)]
    run_processes([*where, "-m", "toprovar.models.nano.train", *sys.argv[1:], "--began", str(began)])


def _plan(rate: float, options: dict[str, Any]) -> Plan:
    """Takes a plan's part out of the options."""
    names = ("seconds", "stop_at", "finish", "save_every", "evaluate_every")
    return Plan(rate=rate, **{name: options.pop(name) for name in names})


@click.group()
def main() -> None:
    """Train nano's tokenizer and its transformer."""


@_command
@click.option("--batch", default=40, show_default=True, help="Images a process and step.")
@click.option("--rate", default=_TOKENIZER_RATE, show_default=True, help="Peak learning rate.")
@click.option("--noise-share", default=0.4, show_default=True, help="Part of the schedule with noise for quantising.")
@click.option("--decoder-only", is_flag=True, help="Keep the encoder, and so the codes, of --weights.")
@click.option("--weights", type=click.Path(exists=True, path_type=Path), help="A vae.safetensors to start from.")
def tokenizer(
    processes: Processes, workers: Pool, out: Path, rate: float, resume: bool, weights: Path | None, **options: Any
) -> None:
    """Train the tokenizer: writes vae.safetensors."""
    plan = _plan(rate, options)
    train_tokenizer(processes, out, plan, TokenizerSettings(**options), workers, resume, weights)


@_command
@click.option("--batch", default=128, show_default=True, help="Images a process and step.")
@click.option("--rate", default=_TRANSFORMER_RATE, show_default=True, help="Peak learning rate.")
@click.option(
    "--tokenizer",
    type=click.Path(exists=True, path_type=Path),
    default=settings.WEIGHTS / "vae.safetensors",
    help="A vae.safetensors; by default the package's own.",
)
def transformer(
    processes: Processes, workers: Pool, out: Path, rate: float, resume: bool, tokenizer: Path, **options: Any
) -> None:
    """Train transformer and text encoder: writes model and text_encoder.safetensors."""
    plan = _plan(rate, options)
    train_transformer(processes, out, tokenizer, plan, TransformerSettings(**options), workers, resume)


@_command
def all_(processes: Processes, workers: Pool, out: Path, resume: bool, **options: Any) -> None:
    """Train the tokenizer, then the transformer on its codes."""
    both, begun = _plan(0.0, options), (out / "state.json").exists()
    common = {"pool": options["pool"], "compiled": options["compiled"]}
    if not (resume and begun):
        plan = replace(both, seconds=_TOKENIZER_SHARE * both.seconds, rate=_TOKENIZER_RATE, finish=False)
        if not train_tokenizer(processes, out, plan, TokenizerSettings(**common), workers, resume):
            return
    plan = replace(both, seconds=(1 - _TOKENIZER_SHARE) * both.seconds, rate=_TRANSFORMER_RATE)
    file, chosen = out / "vae.safetensors", TransformerSettings(**common)
    train_transformer(processes, out, file, plan, chosen, workers, resume=resume and begun)


for _one in (tokenizer, transformer, all_):
    main.add_command(_one)

if __name__ == "__main__":
    main()
