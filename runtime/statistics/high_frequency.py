"""How much a scale changes the edges of the picture (SkipVAR, arXiv 2506.08908).

HF_diff of fakerone-li/SkipVAR at 607be0e: the summed codes before and after the scale, each resized to the grid of
schedule index 4 and decoded; of their grey images (mean of the channels) the Sobel magnitude sqrt(gx^2 + gy^2), with
zeros beyond the border; the mean absolute difference of both. Published thumbnails are 8 x 8 latents, 128 x 128
pixels.

Deviations:
- the decoder's output is clamped to [-1, 1], as the exported graph clamps it (published: not clamped);
- a schedule of fewer scales takes the grid of its last;
- the second feature of the published classifiers, HF_ratio, is left out: their models on HF_diff alone are the ones
  that are followed.
"""

from __future__ import annotations

import numpy as np

from toprovar.runtime.backends.base import Backend, State
from toprovar.runtime.statistics.base import SeenScale, Statistic

__all__ = ["STATISTIC", "edges", "high_frequency", "sobel_magnitude"]

_THUMBNAIL = 4
"""Schedule index whose grid the codes are decoded at."""


class _HighFrequency(Statistic):
    def measure(self, seen: SeenScale) -> np.ndarray:
        return high_frequency(edges(seen.backend, seen.before), edges(seen.backend, seen.after))

    def words(self) -> str:
        return "the mean change that it makes to the edges of the picture"


def high_frequency(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Mean absolute difference of `edges` [B, height, width], [B]."""
    return np.abs(after.astype(np.float64) - before).mean((1, 2))


def edges(backend: Backend, state: State) -> np.ndarray:
    """Edges of a small picture of the codes so far, float32 [B, height, width]."""
    # Tables of a scale lead from the final grid to the next scale's.
    table = max(min(_THUMBNAIL, len(backend.grids) - 1) - 1, 0)
    rows, columns = (backend.constants[f"next_{axis}.{table}"] for axis in ("rows", "columns"))
    return sobel_magnitude(backend.decode_codes(rows @ backend.summed(state) @ columns.T).mean(1))


def sobel_magnitude(image: np.ndarray) -> np.ndarray:
    """Length of the Sobel gradient of images [B, height, width], zero beyond the border."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    smooth_down = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    smooth_across = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    across = smooth_down[:, :, 2:] - smooth_down[:, :, :-2]
    down = smooth_across[:, 2:] - smooth_across[:, :-2]
    return np.hypot(across, down)


STATISTIC = _HighFrequency
