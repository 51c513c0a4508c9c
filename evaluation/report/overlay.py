"""Maps of tokens laid over images, drawn alike."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from toprovar.evaluation.report.style import FAINT, WIDTH, figure

__all__ = ["add_colour_bar", "overlay", "picture_rows", "show"]

_SIDE = 256
_OPACITY = 0.65
_LEAST = 4
"""Columns at least, so that a few pictures do not become posters."""
_BAR, _TITLE = 0.8, 0.2
"""Inches that the colour bar takes from a row of pictures, and a line above them from the height."""


def overlay(image: Image.Image, values: np.ndarray, colours: str, norm: Normalize) -> np.ndarray:
    """Colours a grey copy of an image, token by token.

    Args:
        image: RGB.
        values: One for each token, float [rows, columns].
        colours: Name of a colour map.
        norm: Range of the colours.

    Returns:
        RGB, float [height, width, 3] in [0, 1], 256 pixels on its longer side.
    """
    grey = np.asarray(_resized(image).convert("L"), np.float64)[..., None] / 255
    height, width = grey.shape[:2]
    rows = np.arange(height) * values.shape[0] // height
    columns = np.arange(width) * values.shape[1] // width
    tint = mpl.colormaps[colours](norm(values))[rows[:, None], columns[None, :], :3]
    return (1 - _OPACITY) * grey + _OPACITY * tint


def picture_rows(
    rows: int, columns: int, image: Image.Image, bar: bool = True, titled: bool = True
) -> tuple[Figure, np.ndarray]:
    """A figure of equal pictures, four columns at least; places stay empty until something is shown.

    Args:
        rows: Rows of pictures.
        columns: Columns of pictures.
        image: One of them, for its proportions.
        bar: Whether a colour bar comes beside them.
        titled: Whether each row has titles, rather than the first alone.
    """
    width = (WIDTH - (_BAR if bar else 0) - 0.25) / max(columns, _LEAST) - 0.06
    titles = (rows if titled else 1) * _TITLE
    height = rows * (width * image.height / image.width + 0.06) + titles + 0.15
    made, axes = figure(height, rows, max(columns, _LEAST))
    for place in axes.flat:
        place.set_axis_off()  # until something is shown there
    return made, axes


def show(axes: Axes, picture: Image.Image | np.ndarray, title: str = "", row: str = "") -> None:
    """Puts a picture into its place, without ticks.

    Args:
        axes: The place.
        picture: What to show.
        title: Printed above it.
        row: Printed beside it.
    """
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    shown = _resized(picture) if isinstance(picture, Image.Image) else picture
    axes.imshow(shown, interpolation="antialiased")
    axes.set_title(title, fontsize=8, color=FAINT, pad=3)
    if row:
        axes.set_ylabel(row)


def add_colour_bar(
    made: Figure, places: Sequence[Axes] | np.ndarray, colours: str, norm: Normalize, label: str
) -> None:
    """One colour bar for all pictures of a figure."""
    bar = made.colorbar(ScalarMappable(norm, colours), ax=places, fraction=0.04, pad=0.01, aspect=30, shrink=0.9)
    bar.set_label(label)
    bar.outline.set_visible(False)


def _resized(image: Image.Image) -> Image.Image:
    """At most 256 pixels a side; a small image grows by a whole factor, so that its pixels stay square."""
    longest = max(image.size)
    if longest > _SIDE:
        factor = _SIDE / longest
        return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)
    whole = max(_SIDE // longest, 1)
    return image.resize((image.width * whole, image.height * whole), Image.Resampling.NEAREST)
