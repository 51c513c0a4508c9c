"""Separates coloured objects from a neutral background and names their colours."""

import colorsys
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from toprovar.models.nano import attributes

__all__ = ["Segment", "box_of", "chroma_of", "colourful", "find_segments", "smooth"]

_SMOOTHING: Final = 1.0  # sigma in pixels; takes the noise of a 28 dB image out of the chroma
_CHROMA_THRESHOLD: Final = 36.0  # grey levels; half of the chroma of the dark part of a texture
_MAX_CAST: Final = 24.0  # grey levels
_EDGE_SHARE: Final = 0.35  # an object ends where its chroma falls below this share of its own
_CLOSING_RADIUS: Final = 3  # scenes keep 14 pixels between objects
_MIN_AREA: Final = 200  # pixels; the smallest object ever drawn, a star, has 338
_SPLIT_SHARE: Final = 0.2  # a second colour with this share of the pixels is another object

_HUES: Final = np.array([colorsys.rgb_to_hsv(*(c / 255 for c in rgb))[0] for rgb in attributes.COLOUR_RGB.values()])


@dataclass(frozen=True, slots=True)
class Segment:
    """The pixels of one object.

    Attributes:
        mask: Its coloured pixels with small gaps closed, bool [256, 256].
        colour: One of `attributes.COLOURS`.
    """

    mask: NDArray[np.bool_]
    colour: str


def _disk(radius: int) -> NDArray[np.bool_]:
    """Structuring element, bool [2 radius + 1, 2 radius + 1]."""
    offset = np.arange(-radius, radius + 1)
    return offset[:, None] ** 2 + offset[None, :] ** 2 <= (radius + 0.5) ** 2


def smooth(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Blurs an image [256, 256, 3] slightly, against noise, and takes out a colour cast.

    The backgrounds are neutral, so the median tint of the paler half of the pixels is a cast.
    """
    sigma = (_SMOOTHING, _SMOOTHING, 0)
    smoothed = ndimage.gaussian_filter(image.astype(np.float32), sigma, mode="nearest")
    chroma = chroma_of(smoothed)
    pale = smoothed[chroma <= np.median(chroma)]
    cast = np.median(pale - pale.mean(axis=-1, keepdims=True), axis=0)
    # A stronger tint is not a cast: the image has no neutral background.
    return smoothed - np.clip(cast, -_MAX_CAST, _MAX_CAST)


def chroma_of(smoothed: NDArray[np.float32]) -> NDArray[np.float32]:
    """Largest minus smallest channel of an image [..., 3], in grey levels."""
    # Much faster than a reduction over an axis of three.
    red, green, blue = smoothed[..., 0], smoothed[..., 1], smoothed[..., 2]
    highest = np.maximum(np.maximum(red, green), blue)
    return highest - np.minimum(np.minimum(red, green), blue)


def colourful(smoothed: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels too colourful for the background, bool [...]."""
    return chroma_of(smoothed) > _CHROMA_THRESHOLD


def find_segments(smoothed: NDArray[np.float32]) -> list[Segment]:
    """Finds the objects of an image, from large to small.

    Args:
        smoothed: What `smooth` returns, [256, 256, 3].

    Returns:
        One segment per object; specks below 200 pixels are left out.
    """
    chroma = chroma_of(smoothed)
    coloured = chroma > _CHROMA_THRESHOLD
    names = np.zeros(chroma.shape, dtype=np.intp)
    names[coloured] = _nearest_colours(smoothed[coloured], chroma[coloured])
    # Closing adds pixels that are not coloured: they have no vote.
    votes = np.where(coloured, chroma, 0.0)
    segments: list[Segment] = []
    for component in _components(coloured):
        tally = _tally(component, names, votes)
        present = np.flatnonzero(tally >= _SPLIT_SHARE * tally.sum())
        parts = [component]
        if len(present) > 1:
            parts = [component & coloured & (names == colour) for colour in present]
        for part in parts:
            if not part.any():
                continue
            edge = _EDGE_SHARE * np.percentile(chroma[part], 90)
            for mask in _components(part & (chroma > edge)):
                colour = attributes.COLOURS[int(_tally(mask, names, votes).argmax())]
                segments.append(Segment(mask, colour))
    return sorted(segments, key=lambda segment: -int(segment.mask.sum()))


def box_of(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the smallest box around the pixels of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Connected parts of a mask after closing its gaps, without specks."""
    if not mask.any():
        return []
    box = box_of(mask)
    # Padding keeps the closing from eating at objects that touch the border.
    margin = _CLOSING_RADIUS + 1
    closed = ndimage.binary_closing(np.pad(mask[box], margin), _disk(_CLOSING_RADIUS))
    labels, count = ndimage.label(closed[margin:-margin, margin:-margin], np.ones((3, 3)))
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    parts: list[NDArray[np.bool_]] = []
    for index in np.flatnonzero(areas >= _MIN_AREA):
        if index:
            part = np.zeros_like(mask)
            part[box] = labels == index
            parts.append(part)
    return parts


def _tally(mask: NDArray[np.bool_], names: NDArray[np.intp], votes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Votes of the pixels of a mask for each of `attributes.COLOURS`."""
    count = len(attributes.COLOURS)
    return np.bincount(names[mask], votes[mask], count).astype(np.float64)


def _nearest_colours(pixels: NDArray[np.float32], chroma: NDArray[np.float32]) -> NDArray[np.intp]:
    """Index of the colour with the nearest hue of each pixel [N, 3] of chroma [N] above zero."""
    red, green, blue = pixels.T
    top = pixels.argmax(axis=-1)
    sector = np.choose(top, [green - blue, blue - red, red - green]) / chroma
    hue = ((sector + 2 * top) / 6) % 1.0
    away = np.abs(hue[:, None] - _HUES)
    return np.minimum(away, 1 - away).argmin(axis=-1)
