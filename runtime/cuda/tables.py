"""The constant tables of a schedule, on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toprovar.runtime.cuda.ops import ResizeTables

__all__ = ["ScaleTables", "Tables", "neighbours"]


@dataclass(frozen=True)
class ScaleTables:
    """What one scale reads; matrices as in `toprovar.models.geometry.scale_constants`, fp32.

    Attributes:
        height: rows of tokens.
        width: columns of tokens.
        rope: [2, L, D / 2].
        shown_rows: from the final grid to this scale's codes; None at the first.
        shown_columns: likewise.
        up_rows: from this scale's codes to the final grid.
        up_columns: likewise.
        carry_rows: from this scale's tokens to the next one's.
        carry_columns: likewise.
        entropy_mean: [observers, H].
        entropy_deviation: [observers, H].
    """

    height: int
    width: int
    rope: Tensor
    shown_rows: Tensor | None
    shown_columns: Tensor | None
    up_rows: Tensor
    up_columns: Tensor
    carry_rows: Tensor
    carry_columns: Tensor
    entropy_mean: Tensor
    entropy_deviation: Tensor

    @property
    def tokens(self) -> int:
        """Tokens of the grid."""
        return self.height * self.width


class Tables:
    """All scales' tables.

    Args:
        grids: token grid of every scale.
        constants: as a backend has them.
        device: where to keep them.
    """

    def __init__(
        self, grids: Sequence[tuple[int, int]], constants: Mapping[str, np.ndarray], device: torch.device
    ) -> None:
        self._constants, self._device = constants, device
        self._resize: dict[tuple[int, int], ResizeTables] = {}
        self.scales = tuple(self._scale(scale, grid) for scale, grid in enumerate(grids))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def _scale(self, scale: int, grid: tuple[int, int]) -> ScaleTables:
        def table(name: str, of: int = scale) -> Tensor:
            return self._tensor(self._constants[f"{name}.{of}"])

        return ScaleTables(
            height=grid[0],
            width=grid[1],
            rope=table("rope"),
            shown_rows=table("next_rows", scale - 1) if scale else None,
            shown_columns=table("next_columns", scale - 1) if scale else None,
            up_rows=table("up_rows"),
            up_columns=table("up_columns"),
            carry_rows=table("carry_rows"),
            carry_columns=table("carry_columns"),
            entropy_mean=self._tensor(self._constants["entropy_mean"][scale]),
            entropy_deviation=self._tensor(self._constants["entropy_deviation"][scale]),
        )

    def resize(self, start: int, end: int) -> ResizeTables:
        """From the tokens of scale `start` to those of `end`, where the deployment restores updates."""
        if (start, end) not in self._resize:
            rows, columns = (self._constants[f"restore_{axis}.{start}.{end}"] for axis in ("rows", "columns"))
            parts = [self._tensor(part) for matrix in (rows, columns) for part in neighbours(matrix)]
            self._resize[start, end] = ResizeTables(self._tensor(rows), self._tensor(columns), *parts)
        return self._resize[start, end]


def neighbours(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First neighbour and weight of the second, of every row of a bilinear resize matrix."""
    low = (matrix != 0).argmax(1)
    high = np.minimum(low + 1, matrix.shape[1] - 1)
    weight = np.where(high > low, matrix[np.arange(len(matrix)), high], 0)
    return low.astype(np.int32), weight.astype(np.float32)
