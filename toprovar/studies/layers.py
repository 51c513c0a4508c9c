"""Whether Global and Detail layers alternate, and whether that would be a property of the model at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from toprovar.evaluation.report.style import DENSE, SHARES, SPARSE, figure
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.correlation import spearman
from toprovar.studies.laboratory import Laboratory

__all__ = ["STUDY", "Layers", "autocorrelation", "permutation_p", "rows_of", "without_trend", "words"]

_RESAMPLES = 9999
_SPLITS = 50
_OTHER_SEED = 1000
_LEVEL = 0.05
_FEWEST = 4
"""Layers from which a pattern could be seen at all."""


class Layers(Study):
    """The order of R over layers."""

    title = "Do Global and Detail layers alternate?"
    question = (
        "R is the share of the leading principal components of a layer. Do layers of high R (Global) and low R "
        "(Detail) take turns more regularly than shuffled layers would, and is R the same for other prompts and seeds?"
    )

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """Reads the calibration, and one with other noise; the suite's prompts are not needed."""
        ratios = laboratory.table().principal_component_ratio
        others = laboratory.table(seed=laboratory.seed + _OTHER_SEED).principal_component_ratio
        rows = rows_of(ratios, others)
        return Finding(words(rows), rows, _draw(ratios.mean(0), rows))


def autocorrelation(values: np.ndarray, lag: int) -> np.ndarray:
    """Autocorrelation over the last axis, [..., layers] to [...]; 0 of a constant series.

    Args:
        values: R of every layer.
        lag: layers between the two of a pair.
    """
    centred = values - values.mean(-1, keepdims=True)
    spread = np.square(centred).sum(-1)
    pairs = (centred[..., :-lag] * centred[..., lag:]).sum(-1)
    flat = spread <= 1e-20 * np.square(values).sum(-1)
    return np.where(flat, 0.0, pairs / np.where(flat, 1.0, spread))


def without_trend(values: np.ndarray) -> np.ndarray:
    """Less the straight line over the last axis that fits best: R may rise with depth and still alternate."""
    line = np.arange(values.shape[-1]) - (values.shape[-1] - 1) / 2
    slope = (values * line).sum(-1, keepdims=True) / max(float((line**2).sum()), 1e-300)
    left = values - values.mean(-1, keepdims=True) - slope * line
    # What rounding leaves of a straight line is no pattern.
    return np.where(np.square(left).sum(-1, keepdims=True) <= 1e-20 * np.square(values).sum(-1, keepdims=True), 0, left)


def permutation_p(values: np.ndarray, lag: int, detrended: bool = False) -> float:
    """How often shuffled layers are as far to the side of alternation as these.

    Alternation makes odd lags negative and even ones positive, so that the test is one-sided. Of several scales,
    layers are shuffled in all of them alike and the mean over scales is compared, as scales resemble one another.

    Args:
        values: R, [layers] or [scales, layers].
        lag: layers between the two of a pair.
        detrended: shuffle what a straight line leaves, less its own line (Freedman and Lane, 1983).
    """
    from scipy.stats import permutation_test

    shuffled = np.atleast_2d(without_trend(values) if detrended else values)
    if np.ptp(shuffled, axis=1).max() <= 1e-10 * np.abs(values).max(initial=0.0):
        return 1.0

    def statistic(order: np.ndarray, axis: int) -> np.ndarray:
        chosen = shuffled[:, np.moveaxis(order, axis, -1)]
        return autocorrelation(without_trend(chosen) if detrended else chosen, lag).mean(0)

    result = permutation_test(
        (np.arange(shuffled.shape[1]),),
        statistic,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=_RESAMPLES,
        alternative="less" if lag % 2 else "greater",
        random_state=np.random.default_rng(lag),
    )
    return float(result.pvalue)


def rows_of(ratios: np.ndarray, others: np.ndarray) -> tuple[Row, ...]:
    """One row a scale that has more than one token, hence the first is left out, and one for all of them.

    Args:
        ratios: R [prompts, scales, layers].
        others: the same with other noise.
    """
    prompts, scales, layers = ratios.shape
    rows: list[Row] = []
    for name, chosen in (*((str(scale + 1), [scale]) for scale in range(1, scales)), ("all", [*range(1, scales)])):
        mean = ratios[:, chosen].mean(0)
        row: dict[str, str | int | float | bool | None] = {"scale": name, "layers": layers, "prompts": prompts}
        for detrended, suffix in ((False, ""), (True, ", without trend")):
            values = without_trend(mean) if detrended else mean
            for lag in (1, 2):
                label, known = f"lag {lag}{suffix}", layers >= _FEWEST
                row[label] = round(float(autocorrelation(values, lag).mean()), 3) if known else None
                row[f"p of {label}"] = round(permutation_p(mean, lag, detrended), 4) if known else None
        halves = _halves(ratios[:, chosen])
        seeds = [spearman(own, other) for own, other in zip(mean, others[:, chosen].mean(0), strict=True)]
        row |= {
            "Spearman of halves": round(float(np.mean(halves)), 3) if halves else None,
            "from": round(float(np.quantile(halves, 0.025)), 3) if halves else None,
            "to": round(float(np.quantile(halves, 0.975)), 3) if halves else None,
            "Spearman of seeds": round(float(np.mean(seeds)), 3),
        }
        rows.append(row)
    return tuple(rows)


def _halves(ratios: np.ndarray) -> list[float]:
    """Spearman of the means of two halves of the prompts, mean over scales, for some random partings.

    Args:
        ratios: [prompts, scales, layers].
    """
    generator = np.random.default_rng(0)
    half = len(ratios) // 2
    if not half:
        return []
    orders = (generator.permutation(len(ratios)) for _ in range(_SPLITS))
    pairs = ((ratios[order[:half]].mean(0), ratios[order[half:]].mean(0)) for order in orders)
    return [float(np.mean([spearman(*one) for one in zip(*pair, strict=True)])) for pair in pairs]


def words(rows: Sequence[Row]) -> str:
    """Yes or no, by the autocorrelation at lag 1 without trend over all scales."""
    *scales, whole = rows
    stable = (
        f"The order of layers by R is kept between seeds with a Spearman correlation of {whole['Spearman of seeds']} "
        f"over {len(scales)} scales"
    )
    if whole["Spearman of halves"] is not None:
        stable += (
            f", and between halves of {whole['prompts']} prompts of {whole['Spearman of halves']} "
            f"[{whole['from']}, {whole['to']}]"
        )
    if whole["lag 1"] is None:
        return f"No answer: {whole['layers']} layers are too few for a pattern. {stable}."
    lag, p = (float(whole[name] or 0) for name in ("lag 1, without trend", "p of lag 1, without trend"))
    single = sum(float(row["p of lag 1, without trend"] or 0) < _LEVEL for row in scales)
    said = (
        f"Yes: {_KIND} take turns from layer to layer" if p < _LEVEL else f"No: {_KIND} do not take turns beyond chance"
    )
    return (
        f"{said}; the autocorrelation of R at lag 1, without its trend over depth, is {lag:.2f} in the mean of "
        f"{len(scales)} scales (p = {p:.3g} among shuffles of {whole['layers']} layers; lag 2: "
        f"{whole['lag 2, without trend']}, p = {whole['p of lag 2, without trend']}), and below p = {_LEVEL:g} at "
        f"{single} scales by themselves. {stable}."
    )


_KIND = "Global and Detail layers"


def _draw(mean: np.ndarray, rows: Sequence[Row]) -> Figure:
    rows = rows[:-1]
    made, axes = figure(2.9, 1, 3, width_ratios=[1.3, 1, 1])
    image = axes[0, 0].imshow(mean[1:].T, aspect="auto", cmap=SHARES, vmin=0, vmax=1, origin="lower")
    made.colorbar(image, ax=axes[0, 0], label="R")
    ticks = [str(row["scale"]) for row in rows]
    axes[0, 0].set_xticks(range(len(rows)), ticks)
    step = max(mean.shape[1] // 8, 1)
    axes[0, 0].set_yticks(range(0, mean.shape[1], step), [str(layer + 1) for layer in range(0, mean.shape[1], step)])
    axes[0, 0].set(xlabel="scale", ylabel="layer")
    for lag, colour, marker in ((1, DENSE, "o"), (2, SPARSE, "s")):
        name = f"lag {lag}, without trend"
        for place, row in enumerate(rows):
            if row[name] is not None:
                sure = float(row[f"p of {name}"] or 0) < _LEVEL
                axes[0, 1].plot(place, row[name], marker, color=colour, fillstyle="full" if sure else "none")
        axes[0, 1].plot([], [], marker, color=colour, fillstyle="none", label=f"lag {lag}")
    axes[0, 1].plot([], [], "o", color="0.4", label=f"filled: p < {_LEVEL:g}, one scale alone")
    axes[0, 1].axhline(0, color="0.5", linestyle=":")
    axes[0, 1].set_xticks(range(len(rows)), ticks)
    axes[0, 1].set(xlabel="scale", ylabel="autocorrelation over layers", ylim=(-1.05, 1.05))
    axes[0, 1].legend(loc="upper left", bbox_to_anchor=(0, -0.2), fontsize=7)
    for place, row in enumerate(rows):
        if row["Spearman of halves"] is not None:
            axes[0, 2].plot([place, place], [float(row["from"] or 0), float(row["to"] or 0)], color=DENSE)
            axes[0, 2].plot(place, float(row["Spearman of halves"]), "o", color=DENSE)
        axes[0, 2].plot(place, float(row["Spearman of seeds"] or 0), "x", color=SPARSE)
    axes[0, 2].plot([], [], "o", color=DENSE, label="halves of the prompts")
    axes[0, 2].plot([], [], "x", color=SPARSE, label="another seed")
    axes[0, 2].set_xticks(range(len(rows)), ticks)
    axes[0, 2].set(xlabel="scale", ylabel="Spearman of R over layers", ylim=(-1.05, 1.05))
    axes[0, 2].legend(loc="upper left", bbox_to_anchor=(0, -0.2), fontsize=7)
    return made


STUDY = Layers()
