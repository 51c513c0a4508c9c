"""A stacked bar of where each generation's time goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["draw"]


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Writes a PNG of scales and decoder by plan, the peers' totals beside them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = {one["name"]: [*one["median_scales_ms"], one["median_decode_ms"]] for one in report["results"]}
    totals = {one["name"]: one["median_total_ms"] for one in report["results"]}
    for name, figures in report["peers"].items():
        totals[name] = figures["median_s"] * 1000
        parts = [milliseconds for _, milliseconds in figures["parts_ms"]]
        # A peer's parts are those of one call, its total the median of several.
        bars[name] = [part * totals[name] / sum(parts) for part in parts]
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.5 * len(bars)))
    colours = pyplot.get_cmap("viridis")
    for place, (name, parts) in enumerate(reversed(bars.items())):
        left = 0.0
        for index, width in enumerate(parts):
            last = index == len(parts) - 1
            colour = "#c0504d" if last else colours(index / max(len(parts) - 1, 1))
            axes.barh(place, width, left=left, color=colour)
            left += width
        axes.text(left, place, f" {totals[name]:.0f}", va="center")
    axes.set_yticks(range(len(bars)), list(reversed(bars)))
    axes.set_xlabel("milliseconds: scales from coarse to fine, then the image decoder (red)")
    axes.set_title(f"Infinity-{report['model']}, {report['precision']}, random weights, {report['device']}")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
