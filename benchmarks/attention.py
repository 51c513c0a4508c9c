"""FlashAttentionEntropy beside torch's attention backends, at every scale of Infinity.

    python benchmarks/attention.py --output attention.json

Needs a CUDA device. Each figure is the median over many replays of a CUDA graph, so that it is
the device's time and not the launch's; the backends take turns in one process on the same tensors,
laid out as [batch, length, heads, head_dim], a guidance pair as the batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel

__all__ = ["Measurement", "Shape", "main", "measure", "shapes"]

#: Sides of the scales of a square image of one megapixel, in tokens.
SIDES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
#: Heads of the backbones; both have a head dimension of 128.
HEADS = {"2b": 16, "8b": 28}

Attend = Callable[[], object]

#: Fewest rounds of a measurement.
_ROUNDS = 20
#: Columns of the table, also where it is written to a file.
_WIDTH = 110


@dataclass(frozen=True)
class Shape:
    """Attention of one scale.

    Attributes:
        backbone: "2b" or "8b".
        side: Side of the scale in tokens.
        batch: Images, a guidance pair counting as two.
        heads: Attention heads.
        queries: Tokens of the scale.
        keys: Tokens of this and earlier scales.
        head_dim: Head dimension.
    """

    backbone: str
    side: int
    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int

    @property
    def flops(self) -> int:
        """Floating-point operations of the two matrix products."""
        return 4 * self.batch * self.heads * self.queries * self.keys * self.head_dim

    @property
    def score_bytes(self) -> int:
        """Size of the score matrix in 16-bit elements."""
        return 2 * self.batch * self.heads * self.queries * self.keys


@dataclass(frozen=True)
class Measurement:
    """Times at one shape; a backend that cannot run it has None.

    Attributes:
        shape: What was run.
        entropy_ms: The operator.
        plain_ms: The same kernel without entropy.
        cudnn_ms: torch's cuDNN backend.
        flash_ms: torch's flash backend.
        extra_bytes: Peak memory of the operator beyond its inputs and outputs.
    """

    shape: Shape
    entropy_ms: float
    plain_ms: float
    cudnn_ms: float | None
    flash_ms: float | None
    extra_bytes: int

    @property
    def best_ms(self) -> float | None:
        """The fastest of torch's backends."""
        return min((ms for ms in (self.cudnn_ms, self.flash_ms) if ms is not None), default=None)


def shapes(backbones: tuple[str, ...], smallest: int, batch: int) -> Iterator[Shape]:
    """List the shapes to measure.

    Args:
        backbones: Keys of ``HEADS``.
        smallest: Side of the first scale to measure.
        batch: Images, a guidance pair counting as two.

    Yields:
        One shape a backbone and scale.
    """
    keys = itertools.accumulate(side * side for side in SIDES)
    scales = [(side, total) for side, total in zip(SIDES, keys, strict=True) if side >= smallest]
    for backbone in backbones:
        for side, total in scales:
            yield Shape(backbone, side, batch, HEADS[backbone], side * side, total, 128)


def measure(shape: Shape, milliseconds: int) -> Measurement:
    """Time the operator and torch's backends at one shape.

    Args:
        shape: What to run, in bfloat16.
        milliseconds: How long to repeat each.

    Returns:
        The times and the operator's memory.
    """
    from toprovar.plugins.fae.launcher import launch

    def tensor(rows: int) -> torch.Tensor:
        values = torch.randn(shape.batch, rows, shape.heads, shape.head_dim, device="cuda", dtype=torch.bfloat16)
        return values.transpose(1, 2)

    q, k, v = tensor(shape.queries) * 0.25, tensor(shape.keys), tensor(shape.keys)

    def ours(entropy: bool) -> Attend:
        return lambda: launch(q, ((k, v),), torch.empty_like(q), entropy=entropy)

    def torchs(backend: SDPBackend) -> Attend:
        def attend() -> object:
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)

        return attend

    candidates = {"entropy_ms": ours(True), "plain_ms": ours(False)}
    rivals = {"cudnn_ms": SDPBackend.CUDNN_ATTENTION, "flash_ms": SDPBackend.FLASH_ATTENTION}
    for name, backend in rivals.items():
        # Not every build of torch has every backend.
        with contextlib.suppress(RuntimeError):
            torchs(backend)()
            candidates[name] = torchs(backend)
    medians = _medians(candidates, milliseconds)
    return Measurement(
        shape=shape,
        entropy_ms=medians["entropy_ms"],
        plain_ms=medians["plain_ms"],
        cudnn_ms=medians.get("cudnn_ms"),
        flash_ms=medians.get("flash_ms"),
        extra_bytes=_extra_bytes(q, k, v),
    )


def _capture(attend: Attend, milliseconds: float = 0.5) -> tuple[torch.cuda.CUDAGraph, int]:
    """A graph of as many launches as take about that long, so that an event's own cost does not count."""
    attend()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attend()
    graph.replay()
    launches = max(1, min(50, int(milliseconds / _replay(graph))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(launches):
            attend()
    return graph, launches


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def _medians(candidates: dict[str, Attend], milliseconds: int) -> dict[str, float]:
    """Median time of one launch of each; a new order every round has them share clocks and heat."""
    graphs = {name: _capture(attend) for name, attend in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    order, random_order = list(graphs), random.Random(0)
    while sum(map(sum, times.values())) < milliseconds * len(graphs) or len(times[order[0]]) < _ROUNDS:
        random_order.shuffle(order)
        for name in order:
            times[name].append(_replay(graphs[name][0]))
    return {name: statistics.median(times[name]) / launches for name, (_, launches) in graphs.items()}


def _extra_bytes(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> int:
    import toprovar.plugins.fae.torch_op  # noqa: F401  registers the operator

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    output, entropy = torch.ops.toprovar.flash_attention_entropy(q, k, v)
    return torch.cuda.max_memory_allocated() - before - output.nbytes - entropy.nbytes


def _table(measurements: list[Measurement]) -> Table:
    table = Table(title=f"Attention with entropy, bfloat16, {torch.cuda.get_device_name()}")
    table.add_column("backbone, scale")
    for title in (
        "queries x keys",
        "ours ms",
        "TFLOP/s",
        "cuDNN ms",
        "flash ms",
        "ours / best",
        "entropy",
        "extra memory",
    ):
        table.add_column(title, justify="right")

    def text(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    for m in measurements:
        shape = m.shape
        table.add_row(
            f"{shape.backbone}, {shape.side} x {shape.side}",
            f"{shape.queries} x {shape.keys}",
            text(m.entropy_ms, ".4f"),
            text(shape.flops / m.entropy_ms / 1e9, ".0f"),
            text(m.cudnn_ms, ".4f"),
            text(m.flash_ms, ".4f"),
            text(None if m.best_ms is None else m.entropy_ms / m.best_ms, ".3f"),
            text(m.entropy_ms / m.plain_ms - 1, "+.1%"),
            text(m.extra_bytes / shape.score_bytes, ".2%"),
        )
    return table


@click.command()
@click.option("--backbone", "backbones", type=click.Choice(tuple(HEADS)), multiple=True, help="Default: all.")
@click.option("--smallest", default=16, show_default=True, help="Side of the first scale to measure.")
@click.option("--batch", default=2, show_default=True, help="Images; a guidance pair counts as two.")
@click.option("--milliseconds", default=50, show_default=True, help="How long to repeat each measurement.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the figures as JSON.")
def main(backbones: tuple[str, ...], smallest: int, batch: int, milliseconds: int, output: Path | None) -> None:
    """Time FlashAttentionEntropy and torch's attention backends on this GPU."""
    if not torch.cuda.is_available():
        raise click.ClickException("no CUDA device was found, but this benchmark needs one")
    import triton

    torch.manual_seed(0)
    listed = list(shapes(backbones or tuple(HEADS), smallest, batch))
    progress = track(listed, description="measuring", console=Console(stderr=True))
    measurements = [measure(shape, milliseconds) for shape in progress]
    Console(width=_WIDTH).print(_table(measurements))
    if output is not None:
        report = {
            "schema_version": 1,
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "triton": triton.__version__,
            "measurements": [dataclasses.asdict(measurement) for measurement in measurements],
        }
        output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
