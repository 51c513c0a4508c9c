"""Randomness of a generation, drawn on the host so that every backend gets the same."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["certainty", "logistic_noise"]


def logistic_noise(seed: int, scale: int, tokens: int, bits: int) -> np.ndarray:
    """Noise of one image at one scale: a sample of the logistic distribution for every bit.

    Each (seed, scale) has a generator of its own, so that an image depends neither on its batch nor on
    which scales were computed before.

    Returns:
        float32 [tokens, bits], finite.
    """
    generator = np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, scale], np.uint64)))
    uniform = generator.random((tokens, bits), dtype=np.float64)
    uniform = np.clip(uniform, 2.0**-53, 1 - 2.0**-53)
    return (np.log(uniform) - np.log1p(-uniform)).astype(np.float32)


def certainty(top_k: int, top_p: float) -> float:
    """Top-k and top-p over the two values of a bit, as the logit difference from which sampling stops.

    A nucleus of mass ``top_p`` drops the unlikelier value once its probability is at most 1 - top_p; with
    ``top_k`` = 1 it is always dropped. As in Infinity, 0 switches either off.

    Returns:
        A number of at least 0; infinite if every bit is drawn.
    """
    if top_k == 1:
        return 0.0
    if not 0 < top_p < 1:
        return math.inf
    return max(math.log(top_p / (1 - top_p)), 0.0)
