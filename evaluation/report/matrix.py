"""Matrices of scale by layer, drawn alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage

from toprovar.evaluation.report.style import INK, SHARES

__all__ = ["draw_matrix", "matrix_height"]

_MOST_LABELS = 20
"""On one side of a panel that is half as wide as the page."""
_UNKNOWN = "#e6e8ea"


def matrix_height(layers: int) -> float:
    """Inches that a figure of such matrices needs."""
    return 1.3 + max(0.18 * layers, 1.2)


def draw_matrix(
    axes: Axes,
    values: np.ndarray,
    norm: Normalize,
    title: str,
    marked: np.ndarray | None = None,
    panels: int = 2,
) -> AxesImage:
    """Draws one matrix, first layer at the bottom.

    Args:
        axes: Where to draw.
        values: [scales, layers]; NaN where nothing is known.
        norm: Range of the colours.
        title: Printed above.
        marked: Cells that get a dot, bool [scales, layers].
        panels: How many share the page's width.

    Returns:
        The image, for a colour bar.
    """
    scales, layers = values.shape
    axes.set_facecolor(_UNKNOWN)
    image = axes.imshow(values.T, origin="lower", aspect="auto", cmap=SHARES, norm=norm)
    axes.set_title(title)
    axes.set_xlabel("scale")
    axes.set_ylabel("layer")
    axes.set_xticks(_ticks(scales, 2 * _MOST_LABELS // panels))
    axes.set_yticks(_ticks(layers, _MOST_LABELS))
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xticks(np.arange(scales + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(layers + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    if marked is not None:
        x, y = np.nonzero(marked)
        light = np.asarray(norm(values[marked])) < 0.5
        axes.scatter(x, y, s=11, c=np.where(light, "white", INK), linewidths=0)
    return image


def _ticks(count: int, most: int) -> Sequence[int]:
    return range(0, count, max(-(-count // max(most, 1)), 1))
