"""Finds the objects and the background of an image."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from toprovar.evaluation.shape_eval.detections import (
    DetectedBackground,
    DetectedObject,
    Detection,
)
from toprovar.evaluation.shape_eval.geometry import fit_shape, size_name
from toprovar.evaluation.shape_eval.segmentation import find_segments, smooth
from toprovar.evaluation.shape_eval.textures import background_texture, object_texture
from toprovar.models.nano import attributes

__all__ = ["detect"]

_MAX_OBJECTS: Final = 16  # more than this is a broken image; the largest ones say so too


def detect(image: NDArray[np.uint8]) -> Detection:
    """Finds what an image shows.

    Args:
        image: RGB, uint8 [256, 256, 3].

    Returns:
        The objects, from large to small, and the background.

    Raises:
        ValueError: The image has another shape or type.
    """
    expected = (attributes.CANVAS, attributes.CANVAS, 3)
    if image.shape != expected or image.dtype != np.uint8:
        raise ValueError(
            f"image is {image.dtype} {list(image.shape)}, expected uint8 {list(expected)}; "
            "convert it with (x * 127.5 + 127.5).round().clip(0, 255) and channels last"
        )
    smoothed = smooth(image)
    objects: list[DetectedObject] = []
    for segment in find_segments(smoothed)[:_MAX_OBJECTS]:
        fit = fit_shape(segment.mask)
        objects.append(
            DetectedObject(
                shape=fit.shape,
                colour=segment.colour,
                texture=object_texture(image, smoothed, segment.mask, fit.filled, fit.shape),
                size=size_name(fit.radius),
                radius=fit.radius,
                x=fit.x,
                y=fit.y,
                fit=fit.fit,
            )
        )
    level, texture = background_texture(image, smoothed)
    levels = attributes.BACKGROUND_LEVELS
    colour = min(levels, key=lambda name: abs(levels[name] - level))
    return Detection(tuple(objects), DetectedBackground(colour, texture))
