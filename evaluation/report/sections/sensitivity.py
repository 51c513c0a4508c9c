"""What leaving out tokens does: of one layer to the logits, of a whole scale to the finished picture."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from toprovar.evaluation.report.material import CALIBRATION, Material
from toprovar.evaluation.report.matrix import draw_matrix, matrix_height
from toprovar.evaluation.report.section import Missing, Picture, Section, Table
from toprovar.evaluation.report.style import figure, png
from toprovar.stats import CalibrationStats

__all__ = ["divergences", "draw_sensitivity", "make"]

_TITLE = "Sensitivity"
_EXPLANATION = (
    "How far the predicted bits move when one layer at one scale, and nothing else, works on fewer tokens; one panel "
    "for each share that is kept. Bright cells are where pruning hurts, dark ones where it is nearly free: a good plan "
    "keeps the former and leaves out the latter."
)
_DECADES = 4


def divergences(stats: CalibrationStats) -> dict[float, np.ndarray]:
    """Kullback-Leibler divergence in nats, [scales, layers], by kept share from most to fewest tokens.

    NaN where a layer was not measured at a share; shares are rounded to hundredths.
    """
    shape = len(stats.scales), stats.layers
    tables: dict[float, np.ndarray] = {}
    for scale, one in enumerate(stats.scales):
        for layer, measured in enumerate(one.layers):
            for level in measured.sensitivity:
                table = tables.setdefault(round(level.kept, 2), np.full(shape, np.nan))
                table[scale, layer] = level.kl
    return dict(sorted(tables.items(), reverse=True))


def draw_sensitivity(tables: dict[float, np.ndarray]) -> Figure:
    """A matrix for each share, all of one range of colours.

    Args:
        tables: What `divergences` gives, not empty.
    """
    layers = next(iter(tables.values())).shape[1]
    panels = max(len(tables), 2)
    made, axes = figure(matrix_height(layers), 1, panels, sharey=True)
    largest = max(float(np.nanmax(table)) for table in tables.values())
    top = 10.0 ** math.ceil(math.log10(largest)) if largest > 0 else 1.0
    norm = LogNorm(top / 10**_DECADES, top, clip=True)
    places = axes[0]
    for place, (kept, table) in zip(places, tables.items(), strict=False):
        title = f"{kept:.0%} of tokens kept" if kept else "left out"
        image = draw_matrix(place, table, norm, title, panels=2 * panels)
    for place in places[len(tables) :]:
        place.set_axis_off()
    for place in places[1:]:
        place.set_ylabel("")
    bar = made.colorbar(image, ax=places, label="divergence, nats a bit", fraction=0.05, pad=0.01)
    bar.outline.set_visible(False)
    return made


def make(material: Material) -> Section:
    """The section."""
    stats = material.stats
    if isinstance(stats, Missing):
        return Section("sensitivity", _TITLE, _EXPLANATION, notes=(stats.line,))
    tables = divergences(stats)
    if not tables:
        line = (
            f"Not measured: {CALIBRATION} has no sensitivities. toprovar-compile measures them for policies that ask."
        )
        return Section("sensitivity", _TITLE, _EXPLANATION, notes=(line,))
    picture = Picture(
        "sensitivity",
        png(draw_sensitivity(tables)),
        "Mean Kullback-Leibler divergence of a bit at the scale's own logits, from dense to pruned, in nats, on a "
        f"logarithmic scale of {_DECADES} decades; grey cells were not measured.",
        f"{CALIBRATION}: sensitivity.kl",
    )
    return Section("sensitivity", _TITLE, _EXPLANATION, (picture,), (*_scales(stats), *_guidance(stats)))


def _scales(stats: CalibrationStats) -> tuple[Table, ...]:
    """What pruning a whole scale does to the picture, where it was measured."""
    by_scale = [{one.kept: one.picture_error for one in scale.sensitivity} for scale in stats.scales]
    shares = sorted({share for measured in by_scale for share in measured}, reverse=True)
    if not shares:
        return ()
    rows = tuple(
        (str(scale), *(_decibels(measured.get(share)) for share in shares))
        for scale, measured in enumerate(by_scale)
        if measured
    )
    titles = (f"{share:.0%} kept, dB" if share else "left out, dB" for share in shares)
    caption = (
        "PSNR to dense of the finished picture when one scale alone keeps part of its tokens, from the mean error over "
        f"prompts. Source: {CALIBRATION}: scales.sensitivity.picture_error"
    )
    return (Table(("scale", *titles), rows, caption),)


def _guidance(stats: CalibrationStats) -> tuple[Table, ...]:
    """What sparing the unconditional half does, where it was measured."""
    by_scale = [{one.mode: one for one in scale.guidance} for scale in stats.scales]
    modes = tuple(dict.fromkeys(mode for measured in by_scale for mode in measured))
    if not modes:
        return ()
    rows = tuple(
        (
            str(scale),
            *(f"{measured[mode].kl:.2e}" if mode in measured else "" for mode in modes),
            *(_decibels(measured[mode].picture_error) if mode in measured else "" for mode in modes),
        )
        for scale, measured in enumerate(by_scale)
        if measured
    )
    titles = (*(f"{mode}, nats a bit" for mode in modes), *(f"{mode} from here on, dB" for mode in modes))
    caption = (
        "The same where the unconditional half is spared instead: divergence at the scale, and PSNR to dense of the "
        f"picture when all later scales spare it, too. Source: {CALIBRATION}: guidance"
    )
    return (Table(("scale", *titles), rows, caption),)


def _decibels(error: float | None) -> str:
    if error is None:
        return ""
    return f"{-10 * math.log10(error):.1f}" if error > 0 else "equal"
