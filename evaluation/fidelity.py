"""How near two images are, whatever they show."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["MOST_PSNR", "pooled_psnr", "psnr"]

MOST_PSNR = 100.0
"""Decibels that equal images count as in a mean."""


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two images in [-1, 1]; infinite if they are equal."""
    error = float(np.mean(np.square(np.asarray(first, np.float64) - np.asarray(second, np.float64))))
    return math.inf if error == 0 else 10 * math.log10(4 / error)


def pooled_psnr(values: Sequence[float]) -> float:
    """PSNR in dB of the mean error over images, from the PSNR of each.

    A mean of decibels lets images that are left as they were, at `MOST_PSNR`, pay for ones that are ruined; a mean
    of errors does not.
    """
    return -10 * math.log10(float(np.mean(np.power(10.0, -np.asarray(values, np.float64) / 10))))
