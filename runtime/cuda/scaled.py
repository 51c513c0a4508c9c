"""Operands of fp8 products: numbers of eight bits with one factor a row, after which the row's largest is the largest.

Rows of a product are images one after the other, and every image's factors begin at a multiple of `ALIGNED`, so that a
product of one image alone finds them where the library wants them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ALIGNED", "LARGEST", "LEAST", "Scaled", "ScaledLinear", "scaled"]

ALIGNED = 256
"""Factors of an image are followed by unused ones up to a multiple of this: row-wise products read whole tiles."""
LARGEST = 448.0
"""The largest number of `torch.float8_e4m3fn`."""
LEAST = 1e-12
"""A row whose largest value is smaller than this is scaled as if it were this."""


@dataclass(frozen=True)
class Scaled:
    """A matrix [M, C] whose rows belong to parts of the same size.

    Attributes:
        values: float8_e4m3fn [M, C].
        factors: fp32 [parts, at least M / parts], what the values of a row are to be multiplied by.
    """

    values: Tensor
    factors: Tensor

    @property
    def part_rows(self) -> int:
        """Rows of a part."""
        return len(self.values) // len(self.factors)

    @property
    def column(self) -> Tensor:
        """Factors of all rows, fp32 [M, 1]."""
        return self.factors[:, : self.part_rows].reshape(-1, 1)

    def parts(self) -> list[Scaled]:
        """Every part alone."""
        return [Scaled(*pair) for pair in zip(self.values.split(self.part_rows), self.factors.split(1), strict=True)]

    def put(self, x: Tensor) -> None:
        """Rounds a matrix of the same shape."""
        x = x.float()
        factor = x.abs().amax(1, keepdim=True).clamp_min(LEAST) / LARGEST
        self.values.copy_((x / factor).clamp(-LARGEST, LARGEST))
        self.factors[:, : self.part_rows] = factor.view(len(self.factors), -1)

    def matrix(self) -> Tensor:
        """What it stands for, fp32 [M, C]."""
        return self.values.float() * self.column


@dataclass(frozen=True)
class ScaledLinear:
    """A matrix [out, in] in fp8, and its bias [out]."""

    weight: Scaled
    bias: Tensor


def scaled(x: Tensor) -> Scaled:
    """A matrix of one part, rounded."""
    values = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    made = Scaled(values, torch.zeros(1, len(x), device=x.device))
    made.put(x)
    return made
