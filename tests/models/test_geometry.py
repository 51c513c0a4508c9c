"""Resizing and rotary tables, each against an independent computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from toprovar.models.geometry import resize_matrix, rope_table, scale_constants
from toprovar.models.schedules import aspect_ratios, full_schedule, schedule


@pytest.mark.parametrize(
    ("size_in", "size_out"), [(1, 1), (1, 9), (2, 3), (6, 4), (5, 64), (64, 12), (37, 111), (8, 8)]
)
def test_resize_is_torchs_bilinear(size_in: int, size_out: int) -> None:
    generator = torch.Generator().manual_seed(size_in)
    image = torch.randn(1, 2, size_in, 7, generator=generator, dtype=torch.float64)
    expected = F.interpolate(image, size=(size_out, 7), mode="bilinear", align_corners=False)
    matrix = torch.from_numpy(resize_matrix(size_in, size_out)).double()
    torch.testing.assert_close(matrix @ image, expected, rtol=0, atol=5e-7)
    np.testing.assert_allclose(resize_matrix(size_in, size_out).sum(1), 1, atol=1e-6)


def official_rope(grid: tuple[int, int], largest: tuple[int, int], head_dim: int) -> torch.Tensor:
    """Position by position, in torch, as the official ``precompute_rope2d_freqs_grid`` does it."""
    frequency = 1 / 10000 ** (torch.arange(0, head_dim // 2, 2).float() / (head_dim // 2))
    table = torch.empty(2, *grid, head_dim // 2)
    for row in range(grid[0]):
        for column in range(grid[1]):
            y = torch.round(torch.tensor(float(row)) * (largest[0] / grid[0]))
            x = torch.round(torch.tensor(float(column)) * (largest[1] / grid[1]))
            angles = torch.cat([y * frequency, x * frequency])
            table[:, row, column] = torch.stack([angles.cos(), angles.sin()])
    return table.flatten(1, 2)


@pytest.mark.parametrize(("name", "scale"), [("1:1", 0), ("1:1", 6), ("1:1", 8), ("3:1", 5), ("2:5", 9), ("5:4", 7)])
def test_rope_is_torchs(name: str, scale: int) -> None:
    grids = full_schedule(name)
    actual = torch.from_numpy(rope_table(grids[scale], grids[-1], 32))
    torch.testing.assert_close(actual, official_rope(grids[scale], grids[-1], 32), rtol=0, atol=3e-6)


def test_a_smaller_resolution_keeps_the_positions_of_the_largest() -> None:
    small, large = schedule("1:1", "0.25M"), schedule("1:1", "1M")
    one = scale_constants(small, 16, small)
    other = scale_constants(large, 16, large)
    for scale in range(len(small)):
        np.testing.assert_array_equal(one[f"rope.{scale}"], other[f"rope.{scale}"])


@pytest.mark.parametrize("name", aspect_ratios())
@pytest.mark.parametrize("factor", [1, 2], ids=["plain", "patchify"])
def test_constants_fit_the_schedule(name: str, factor: int) -> None:
    grids = schedule(name, "0.25M")
    latent = tuple((h * factor, w * factor) for h, w in grids)
    constants = scale_constants(grids, 8, latent)
    for scale, (height, width) in enumerate(grids):
        following = min(scale + 1, len(grids) - 1)
        assert constants[f"rope.{scale}"].shape == (2, height * width, 4)
        assert constants[f"up_rows.{scale}"].shape == (latent[-1][0], latent[scale][0])
        assert constants[f"up_columns.{scale}"].shape == (latent[-1][1], latent[scale][1])
        assert constants[f"next_rows.{scale}"].shape == (latent[following][0], latent[-1][0])
        assert constants[f"next_columns.{scale}"].shape == (latent[following][1], latent[-1][1])
        assert constants[f"carry_rows.{scale}"].shape == (grids[following][0], height)
        assert constants[f"carry_columns.{scale}"].shape == (grids[following][1], width)
    last = len(grids) - 1
    np.testing.assert_array_equal(constants[f"up_rows.{last}"], np.eye(latent[-1][0]))
