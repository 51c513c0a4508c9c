"""One quiet look for every figure, drawn by Matplotlib's Agg without any global state."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["DENSE", "DPI", "FAINT", "INK", "SHARES", "SIGNED", "SPARSE", "WIDTH", "figure", "png", "quiet"]

DPI = 110
WIDTH = 9.0
"""Inches: the page shows every figure pixel by pixel."""

# Okabe and Ito's palette; the colour maps are told apart by all as well.
DENSE, SPARSE = "#0072b2", "#e69f00"
INK, FAINT, RULE = "#24272b", "#6a6f76", "#c9cdd2"
SHARES = "viridis"
"""Shares from 0 to 1, and other values of one sign."""
SIGNED = "PuOr"
"""Values around 0."""

# Matplotlib's stubs know every key by name.
_LOOK: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": RULE,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "grid.color": "#e6e8ea",
    "grid.linewidth": 0.8,
    "image.interpolation": "nearest",
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.constrained_layout.hspace": 0,
    "figure.constrained_layout.wspace": 0,
}


@contextmanager
def quiet() -> Iterator[None]:
    """Within, figures have this look; they must be turned into a PNG within, too."""
    with mpl.rc_context(_LOOK):
        yield


def figure(height: float, rows: int = 1, columns: int = 1, **layout: Any) -> tuple[Figure, np.ndarray]:
    """A figure of the page's width.

    Args:
        height: Inches.
        rows: Rows of axes.
        columns: Columns of axes.
        layout: Further arguments of `Figure.subplots`.

    Returns:
        The figure and its axes, [rows, columns].
    """
    made = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(made)
    return made, made.subplots(rows, columns, squeeze=False, **layout)


def png(made: Figure) -> bytes:
    """The figure's file: its size in pixels depends on its inches alone."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
