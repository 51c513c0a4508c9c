"""Names the texture of an object and of the background."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from toprovar.evaluation.shape_eval.segmentation import box_of, colourful
from toprovar.models.nano import attributes

__all__ = ["background_texture", "object_texture"]

# A decoder may stretch a pattern a little.
_PERIOD_FACTORS: Final = (0.92, 1.0, 1.08)
_HOLLOW_DEPTH: Final = attributes.OUTLINE_WIDTH + 2  # pixels from the edge
_HOLLOW_SHARE: Final = 0.4  # an outlined object is coloured on less than this share inside
_NOISE_FILTER: Final = 0.7  # sigma in pixels
_RIM: Final = 2  # pixels at the edge that mix with the background
# Standard deviation per brightness that makes a texture; noise of 28 dB reaches 0.04 once filtered.
_PATTERN_CONTRAST: Final = 0.055
_SPECKLE_CONTRAST: Final = 0.085
_PATTERN_SHARE: Final = 0.25  # of the variance that a regular pattern explains
_CLEARANCE: Final = 11  # side in pixels of the square that has to be free of objects
_BACKGROUND_PATTERN: Final = 30.0  # squared grey levels; 250 for a clean pattern
_DOT_BALANCE: Final = 0.3  # weaker axis per stronger axis; zero for stripes, one for dots


@dataclass(frozen=True, slots=True)
class _Power:
    """Variance explained by waves of one period along an axis and along the two diagonals."""

    across: float
    down: float
    diagonal: float

    @property
    def axes(self) -> float:
        return self.across + self.down

    def pattern(self, threshold: float) -> str | None:
        """The regular pattern, or None if no wave reaches the threshold."""
        if self.diagonal > self.axes:
            return "checkered" if self.diagonal > threshold else None
        if self.axes <= threshold:
            return None
        weaker, stronger = sorted((self.across, self.down))
        return "dotted" if weaker > _DOT_BALANCE * stronger else "striped"


def object_texture(
    image: NDArray[np.uint8],
    smoothed: NDArray[np.float32],
    mask: NDArray[np.bool_],
    filled: NDArray[np.bool_],
    shape: str,
) -> str:
    """Names an object's texture.

    Args:
        image: uint8 [256, 256, 3].
        smoothed: The same image after `segmentation.smooth`.
        mask: The object's coloured pixels, bool [256, 256].
        filled: The same with holes filled.
        shape: The object's shape; a ring's own hole does not make it outlined.

    Returns:
        One of `attributes.TEXTURES`.
    """
    box = box_of(filled)
    mask, filled, image, smoothed = mask[box], filled[box], image[box], smoothed[box]
    body = mask if shape == "ring" else filled
    depth = ndimage.distance_transform_edt(np.pad(body, 1))[1:-1, 1:-1]
    core = depth >= min(_HOLLOW_DEPTH, 0.6 * depth.max())
    if shape != "ring" and colourful(smoothed)[core].mean() < _HOLLOW_SHARE:
        return "outlined"
    inside = depth > min(_RIM, 0.5 * depth.max())
    brightness = image.max(axis=-1).astype(np.float64)
    brightness /= np.percentile(brightness[inside], 90)
    soft = ndimage.gaussian_filter(brightness, _NOISE_FILTER)
    contrast = soft[inside].std()
    power = _pattern_power(brightness, inside, attributes.TEXTURE_PERIOD)
    pattern = power.pattern(_PATTERN_SHARE * brightness[inside].var())
    if pattern is not None and contrast >= _PATTERN_CONTRAST:
        return pattern
    return "speckled" if contrast >= _SPECKLE_CONTRAST else "solid"


def background_texture(image: NDArray[np.uint8], smoothed: NDArray[np.float32]) -> tuple[float, str]:
    """Measures the background outside every coloured pixel.

    Args:
        image: uint8 [256, 256, 3].
        smoothed: The same image after `segmentation.smooth`.

    Returns:
        Median grey level, 0 to 255, and one of `attributes.BACKGROUND_TEXTURES`.
    """
    near = ndimage.maximum_filter(colourful(smoothed).astype(np.uint8), _CLEARANCE)
    free = near == 0
    if not free.any():
        free = np.ones_like(free)
    grey = image.mean(axis=-1)
    power = _pattern_power(grey, free, attributes.BACKGROUND_PERIOD)
    return float(np.median(grey[free])), power.pattern(_BACKGROUND_PATTERN) or "plain"


def _pattern_power(values: NDArray[np.float64], where: NDArray[np.bool_], period: float) -> _Power:
    """Power of the waves of about one period among the chosen pixels, in squared `values`."""
    count = where.sum()
    samples = np.where(where, values - values[where].mean(), 0.0)
    y, x = np.arange(values.shape[0]), np.arange(values.shape[1])
    down_sums = samples.sum(axis=1)
    across_sums = samples.sum(axis=0)
    across, down, diagonal = [], [], []
    for factor in _PERIOD_FACTORS:
        wave_x = np.exp(2j * np.pi * factor / period * x)
        wave_y = np.exp(2j * np.pi * factor / period * y)
        rows = samples @ wave_x
        across.append(_power(across_sums @ wave_x, count))
        down.append(_power(down_sums @ wave_y, count))
        diagonal.append(_power(wave_y @ rows, count) + _power(wave_y.conj() @ rows, count))
    return _Power(across=max(across), down=max(down), diagonal=max(diagonal))


def _power(total: complex, count: int) -> float:
    # A wave of amplitude a gives |mean| = a / 2, and its variance is a**2 / 2.
    return float(2 * abs(total / count) ** 2)
