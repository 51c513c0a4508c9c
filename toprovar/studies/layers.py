"""Whether Global and Detail layers alternate, and whether that would be a property of the model at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from toprovar.evaluation.report.style import DENSE, SHARES, SPARSE, figure
from toprovar.laboratory import Laboratory
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.correlation import spearman

__all__ = ["STUDY", "Layers", "autocorrelation", "holm", "permutation_p", "rows_of", "words"]

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


def autocorrelation(values: np.ndarray, lag: int, detrended: bool = False) -> np.ndarray:
    """Autocorrelation over the last axis, [..., layers] to [...]; 0 of a constant series.

    Args:
        values: R of every layer.
        lag: layers between the two of a pair.
        detrended: less the straight line that fits best, as R may rise with depth and still alternate.
    """
    centred = values - values.mean(-1, keepdims=True)
    if detrended:
        line = np.arange(values.shape[-1]) - (values.shape[-1] - 1) / 2
        slope = (centred * line).sum(-1, keepdims=True) / max(float((line**2).sum()), 1e-300)
        centred = centred - slope * line
    spread = np.square(centred).sum(-1)
    pairs = (centred[..., :-lag] * centred[..., lag:]).sum(-1)
    small = spread <= 1e-20 * np.square(values).sum(-1)
    return np.where(small, 0.0, pairs / np.where(small, 1.0, spread))


def permutation_p(values: np.ndarray, lag: int, detrended: bool = False) -> float:
    """Share of shuffled layers whose autocorrelation is as far to the side of alternation as this one's.

    Alternation makes odd lags negative and even ones positive, so that the test is one-sided.
    """
    from scipy.stats import permutation_test

    if np.ptp(values) <= 1e-10 * np.abs(values).max(initial=0.0):
        return 1.0
    result = permutation_test(
        (values,),
        lambda x, axis: autocorrelation(np.moveaxis(x, axis, -1), lag, detrended),
        permutation_type="pairings",
        vectorized=True,
        n_resamples=_RESAMPLES,
        alternative="less" if lag % 2 else "greater",
        random_state=np.random.default_rng(lag),
    )
    return float(result.pvalue)


def rows_of(ratios: np.ndarray, others: np.ndarray) -> tuple[Row, ...]:
    """One row a scale that has more than one token, hence the first is left out.

    Args:
        ratios: R [prompts, scales, layers].
        others: the same with other noise.
    """
    prompts, scales, layers = ratios.shape
    rows: list[Row] = []
    for scale in range(1, scales):
        mean = ratios[:, scale].mean(0)
        row: dict[str, str | int | float | bool | None] = {"scale": scale + 1, "layers": layers, "prompts": prompts}
        for detrended, suffix in ((False, ""), (True, ", without trend")):
            for lag in (1, 2):
                known = layers >= _FEWEST
                name = f"lag {lag}{suffix}"
                row[name] = round(float(autocorrelation(mean, lag, detrended)), 3) if known else None
                row[f"p of {name}"] = round(permutation_p(mean, lag, detrended), 4) if known else None
        halves = _halves(ratios[:, scale])
        row |= {
            "Spearman of halves": round(float(np.mean(halves)), 3) if halves else None,
            "from": round(float(np.quantile(halves, 0.025)), 3) if halves else None,
            "to": round(float(np.quantile(halves, 0.975)), 3) if halves else None,
            "Spearman of seeds": round(spearman(mean, others[:, scale].mean(0)), 3),
        }
        rows.append(row)
    return tuple(rows)


def _halves(ratios: np.ndarray) -> list[float]:
    """Spearman of the means of two halves of the prompts [prompts, layers], for some random partings."""
    generator = np.random.default_rng(0)
    half = len(ratios) // 2
    if not half:
        return []
    orders = (generator.permutation(len(ratios)) for _ in range(_SPLITS))
    return [spearman(ratios[order[:half]].mean(0), ratios[order[half:]].mean(0)) for order in orders]


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, 1979)."""
    order = np.argsort(values, kind="stable")
    corrected, largest = np.zeros(len(values)), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min((len(values) - place) * values[index], 1.0))
        corrected[index] = largest
    return corrected.tolist()


def words(rows: Sequence[Row]) -> str:
    """Yes or no, by the autocorrelation at lag 1 without trend, corrected for the number of scales."""
    halves = [float(row["Spearman of halves"]) for row in rows if row["Spearman of halves"] is not None]
    seeds = [float(row["Spearman of seeds"] or 0) for row in rows]
    stable = (
        f"The order of layers by R is kept between seeds with a Spearman correlation of {min(seeds):.2f} to "
        f"{max(seeds):.2f} over scales"
    )
    stable += f", between halves of {rows[0]['prompts']} prompts of {min(halves):.2f} to {max(halves):.2f}." * bool(
        halves
    )
    if rows[0]["lag 1"] is None:
        return f"No answer: {rows[0]['layers']} layers are too few for a pattern. {stable}"
    corrected = holm([float(row["p of lag 1, without trend"] or 0) for row in rows])
    found = [row for row, p in zip(rows, corrected, strict=True) if p < _LEVEL]
    if not found:
        least = min(corrected)
        return (
            f"No: at no scale is R negatively correlated from layer to layer beyond chance (smallest corrected p "
            f"{least:.2g} of {len(rows)} scales, {rows[0]['layers']} layers). {stable}"
        )
    names = ", ".join(str(row["scale"]) for row in found)
    said = "Yes" if 2 * len(found) > len(rows) else "No, not in general"
    lags = [float(row["lag 1, without trend"] or 0) for row in found]
    return (
        f"{said}: layers take turns at {len(found)} of {len(rows)} scales ({names}), with an autocorrelation at lag 1 "
        f"of {min(lags):.2f} to {max(lags):.2f} there (permutation test, Holm's correction, p < {_LEVEL:g}, "
        f"{rows[0]['layers']} layers). {stable}"
    )


def _draw(mean: np.ndarray, rows: Sequence[Row]) -> Figure:
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
