"""What principal components cost: eigenvalues of small Gram matrices against a full decomposition."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from matplotlib.figure import Figure
from torch import Tensor

from toprovar.calibration.principal_components import LEADING_SHARE, centred_grams, leading_ratios
from toprovar.evaluation.report.style import DENSE, SPARSE, figure
from toprovar.plan import Ranking
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.laboratory import Laboratory

__all__ = ["STUDY", "Components", "by_gram", "by_svd", "compare", "words"]

_PROMPTS, _ROUNDS = 3, 3


@dataclass
class _Streams:
    """Keeps what every layer computed (`toprovar.models.observer.Observer`)."""

    scales: list[list[Tensor]] = field(default_factory=list)

    def on_scale(self, scale: int) -> None:
        if scale == 0:
            self.scales.clear()
        self.scales.append([])

    def on_attention(self, first: int, entropy: Tensor) -> None:
        """Nothing to keep."""

    def on_hidden(self, first: int, hidden: Tensor) -> None:
        self.scales[-1].extend(hidden[:, 0].clone())


class Components(Study):
    """Gram matrices against singular values."""

    title = "What principal components cost"
    question = (
        "The share of the leading principal components of every layer and scale needs eigenvalues. What do they cost "
        "by batched Gram matrices and by a full singular value decomposition, and are the shares the same?"
    )

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """The same matrices in both ways, in turn."""
        prompts = laboratory.suite_prompts(min(limit or _PROMPTS, _PROMPTS))
        streams, subject = _Streams(), laboratory.subject
        session = subject.session(subject.torch_backend(Ranking("none"), observer=streams))
        seen: list[list[Row]] = []
        for index, prompt in enumerate(prompts):
            session(prompt.text, generator=index)
            seen.append([compare(scale, layers) for scale, layers in enumerate(streams.scales)])
            laboratory.stages.progress("components", index + 1, len(prompts))
        rows = [_merged(own) for own in zip(*seen, strict=True)]
        seconds = laboratory.stats().seconds
        share = seconds["principal components"] / max(sum(seconds.values()), 1e-12)
        return Finding(words(rows, share, len(prompts)), tuple(rows), _draw(rows, share))


def by_gram(layers: Sequence[Tensor]) -> Tensor:
    """Shares of the leading components, [layers], as calibration computes them."""
    return leading_ratios(*centred_grams(torch.stack(list(layers))))


def by_svd(layers: Sequence[Tensor]) -> Tensor:
    """The same from full decompositions U S V of the centred matrices [N, C], one layer after the other."""
    shares = []
    for hidden in layers:
        tokens = hidden.double()
        _, values, _ = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
        squares = values.square()
        leading = max(1, round(LEADING_SHARE * len(squares)))
        # As in `leading_ratios`: tokens that differ by the rounding of their mean alone have no variance.
        varied = squares.sum() > 1e-20 * tokens.square().sum()
        shares.append(float(squares[:leading].sum() / squares.sum()) if varied else 1.0)
    return torch.tensor(shares, dtype=torch.float64)


def compare(scale: int, layers: Sequence[Tensor]) -> Row:
    """Both ways over the layers of one scale: medians of some rounds, taken in turn."""
    taken: dict[str, list[float]] = {"gram": [], "svd": []}
    shares = {"gram": torch.zeros(0), "svd": torch.zeros(0)}
    ways: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {"gram": by_gram, "svd": by_svd}
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            shares[name] = way(layers)
            taken[name].append(time.perf_counter() - started)
    gram, svd = statistics.median(taken["gram"]), statistics.median(taken["svd"])
    return {
        "scale": scale + 1,
        "tokens": layers[0].shape[0],
        "channels": layers[0].shape[1],
        "layers": len(layers),
        "Gram and eigenvalues, s": gram,
        "full SVD, s": svd,
        "SVD over Gram": round(svd / gram, 2),
        "largest difference": float((shares["gram"] - shares["svd"]).abs().max()),
        "samples": _ROUNDS,
    }


def _merged(prompts: Sequence[Row]) -> Row:
    gram, svd = (statistics.median(float(row[name] or 0) for row in prompts) for name in _TIMES)
    return {
        **prompts[0],
        "Gram and eigenvalues, s": float(f"{gram:.4g}"),
        "full SVD, s": float(f"{svd:.4g}"),
        "SVD over Gram": round(svd / gram, 2),
        "largest difference": max(float(row["largest difference"] or 0) for row in prompts),
        "samples": sum(int(row["samples"] or 0) for row in prompts),
    }


_TIMES = ("Gram and eigenvalues, s", "full SVD, s")


def words(rows: Sequence[Row], share: float, prompts: int) -> str:
    """Which way is faster, and what it is of a calibration."""
    gram, svd = (sum(float(row[name] or 0) for row in rows) for name in _TIMES)
    difference = max(float(row["largest difference"] or 0) for row in rows)
    ratio = svd / gram
    said = "Gram matrices are faster" if ratio > 1 else "No: Gram matrices are not faster here"
    return (
        f"{said}: {gram:.3f} s a prompt for all scales and layers against {svd:.3f} s by full decompositions, "
        f"{ratio:.1f} times (medians of {_ROUNDS} rounds on {prompts} prompts). They take {share:.1%} of a calibration "
        f"without sensitivities. The shares differ by {difference:.1e} at most."
    )


def _draw(rows: Sequence[Row], share: float) -> Figure:
    made, axes = figure(2.6, 1, 2, width_ratios=[2.2, 1])
    for name, colour, marker in zip(_TIMES, (DENSE, SPARSE), "os", strict=True):
        values = [1e3 * float(row[name] or 0) for row in rows]
        axes[0, 0].plot(range(len(rows)), values, marker + "-", color=colour, label=name.removesuffix(", s"))
    axes[0, 0].set_yscale("log")
    axes[0, 0].yaxis.set_major_formatter("{x:g}")
    axes[0, 0].yaxis.set_minor_formatter("")
    axes[0, 0].set_xticks(range(len(rows)), [str(row["tokens"]) for row in rows])
    axes[0, 0].set(xlabel=f"tokens of the scale ({rows[0]['channels']} channels)", ylabel="all layers, ms")
    axes[0, 0].legend()
    axes[0, 1].barh([0], [share], color=DENSE, height=0.5)
    axes[0, 1].barh([0], [1 - share], left=[share], color="0.85", height=0.5)
    axes[0, 1].text(share / 2 if share > 0.3 else share + 0.02, 0.45, f"{share:.1%}", ha="left", color=DENSE)
    axes[0, 1].set(xlabel="share of the calibration's time", yticks=[], ylim=(-1, 1.2), xlim=(0, 1))
    return made


STUDY = Components()
