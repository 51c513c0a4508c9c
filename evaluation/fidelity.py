"""How near two images are, whatever they show."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["MOST_PSNR", "psnr"]

MOST_PSNR = 100.0
"""Decibels that equal images count as in a mean."""


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two images in [-1, 1]; infinite if they are equal."""
    error = float(np.mean(np.square(np.asarray(first, np.float64) - np.asarray(second, np.float64))))
    return math.inf if error == 0 else 10 * math.log10(4 / error)
