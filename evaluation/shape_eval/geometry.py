"""Names the shape of a segment by comparing it with the ideal shapes."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from toprovar.evaluation.shape_eval.detections import UNKNOWN_SHAPE
from toprovar.evaluation.shape_eval.segmentation import box_of
from toprovar.models.nano import attributes

__all__ = ["ShapeFit", "fit_shape", "size_name"]

_MIN_FIT: Final = 0.72
_LOST_TIPS: Final = (0, 1, 2, 3)  # pixels by which blur may have shortened the tips of a shape
_RING_HOLES: Final = (0.2, 0.7)  # hole radius per radius; a thinner band is an outlined circle
_MAX_STRETCH: Final = 1.3  # width per height, compared with the ideal shape's

_STAR_TOP, _STAR_BOTTOM = 1.0, math.cos(math.pi / 5)
_STAR_SIDE: Final = math.sin(2 * math.pi / 5)

# Half width and half height of each shape's bounding box, in units of its radius.
_HALF_BOX: Final = {
    "circle": (1.0, 1.0),
    "square": (attributes.SQUARE_HALF, attributes.SQUARE_HALF),
    "triangle": (1.0, attributes.TRIANGLE_HALF),
    "diamond": (1.0, 1.0),
    "star": (_STAR_SIDE, 0.5 * (_STAR_TOP + _STAR_BOTTOM)),
    "cross": (attributes.CROSS_ARM, attributes.CROSS_ARM),
}

# A measured radius halfway between two sizes belongs to the smaller one.
_SIZE_LIMITS: Final = tuple(
    0.5 * (attributes.SIZE_RADII[small][1] + attributes.SIZE_RADII[large][0])
    for small, large in zip(attributes.SIZES[:-1], attributes.SIZES[1:], strict=True)
)


@dataclass(frozen=True, slots=True)
class ShapeFit:
    """The shape that fits a segment best.

    Attributes:
        shape: One of `attributes.SHAPES`, or `UNKNOWN_SHAPE`.
        fit: Intersection over union with the ideal shape, 0 to 1.
        radius: In pixels, comparable to `SceneObject.radius`.
        x: Centre in pixels from the left edge.
        y: Centre in pixels from the top edge.
        filled: The segment with its holes filled, bool [256, 256].
    """

    shape: str
    fit: float
    radius: float
    x: float
    y: float
    filled: NDArray[np.bool_]


def fit_shape(mask: NDArray[np.bool_]) -> ShapeFit:
    """Compares a segment, holes filled, with the ideal shapes scaled to its bounding box.

    A circle whose hole is neither tiny nor nearly as large as the circle is a ring.

    Args:
        mask: The segment's pixels, bool [256, 256], at least one of them set.
    """
    rows, columns = box_of(mask)
    filled = mask.copy()
    filled[rows, columns] = ndimage.binary_fill_holes(mask[rows, columns])
    centre_y = 0.5 * (rows.start + rows.stop)
    centre_x = 0.5 * (columns.start + columns.stop)
    padded = np.pad(filled[rows, columns], max(_LOST_TIPS))
    y = (np.arange(padded.shape[0]) + 0.5 - padded.shape[0] / 2)[:, None]
    x = (np.arange(padded.shape[1]) + 0.5 - padded.shape[1] / 2)[None, :]
    best, best_fit, radius = UNKNOWN_SHAPE, 0.0, 0.0
    for shape, (half_width, half_height) in _HALF_BOX.items():
        for lost in _LOST_TIPS:
            height = rows.stop - rows.start + 2 * lost
            width = columns.stop - columns.start + 2 * lost
            stretch = (width / height) / (half_width / half_height)
            if not 1 / _MAX_STRETCH <= stretch <= _MAX_STRETCH:
                continue
            ideal = _inside(shape, 2 * x / width, 2 * y / height)
            fit = float((padded & ideal).sum() / (padded | ideal).sum())
            if fit > best_fit:
                best, best_fit = shape, fit
                radius = 0.25 * (width / half_width + height / half_height)
    if best == "star":  # its centre is not the middle of its box
        centre_y += 0.5 * (_STAR_TOP - _STAR_BOTTOM) * radius
    if best == "circle":
        hole = math.sqrt(1 - mask.sum() / filled.sum())
        best = "ring" if _RING_HOLES[0] <= hole <= _RING_HOLES[1] else "circle"
    if best_fit < _MIN_FIT:
        best = UNKNOWN_SHAPE
    return ShapeFit(best, best_fit, radius, centre_x, centre_y, filled)


def size_name(radius: float) -> str:
    """Names a radius in pixels: "small", "medium" or "large"."""
    return attributes.SIZES[int(np.searchsorted(_SIZE_LIMITS, radius))]


def _inside(shape: str, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Ideal shape in its own bounding box, u [1, W] and v [H, 1] from -1 to 1, v downwards."""
    side_u, side_v = np.abs(u), np.abs(v)
    match shape:
        case "circle":
            return u * u + v * v <= 1
        case "triangle":
            return (side_u <= 0.5 * (v + 1)) & (v <= 1)
        case "diamond":
            return side_u + side_v <= 1
        case "cross":
            ratio = attributes.CROSS_WIDTH / attributes.CROSS_ARM
            return (np.minimum(side_u, side_v) <= ratio) & (np.maximum(side_u, side_v) <= 1)
        case "star":
            up = 0.5 * (_STAR_TOP - _STAR_BOTTOM) - 0.5 * (_STAR_TOP + _STAR_BOTTOM) * v
            return _inside_star(_STAR_SIDE * u, up)
        case _:
            return np.maximum(side_u, side_v) <= 1


def _inside_star(x: NDArray[np.float64], up: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Star of radius 1 around the origin, by folding the plane into half a spike."""
    angle = np.abs(np.arctan2(x, up)) % (2 * math.pi / 5)
    angle = np.minimum(angle, 2 * math.pi / 5 - angle)
    distance = np.hypot(x, up)
    # The edge runs from the tip (1, 0) to the inner corner at 36 degrees.
    inner_x = attributes.STAR_INNER * math.cos(math.pi / 5)
    inner_y = attributes.STAR_INNER * math.sin(math.pi / 5)
    along, across = distance * np.cos(angle), distance * np.sin(angle)
    return inner_y * (1 - along) - (1 - inner_x) * across >= 0
