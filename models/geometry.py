"""Constant tables of a schedule: rotary angles and the matrices that resize a grid.

Plain numpy, so that a runtime without torch can use them. A bilinear resize is a product with one small
matrix a side, which keeps every graph free of resize operators whose conventions differ between engines.
"""

from __future__ import annotations

import numpy as np

from toprovar.models.schedules import Schedule, find_aspect_ratio, full_schedule

__all__ = ["resize_matrix", "restore_constants", "rope_angles", "rope_reference", "rope_table", "scale_constants"]

_ROPE_GRID = 128
"""Edge of Infinity's rotary grid: 2048 pixels at 16 a token."""


def resize_matrix(size_in: int, size_out: int) -> np.ndarray:
    """Bilinear resize of one axis as a matrix.

    Half-pixel centres, edges clamped, no antialiasing: torch's ``interpolate(mode="bilinear",
    align_corners=False)``, one axis at a time.

    Returns:
        float32 [size_out, size_in]; every row sums to 1.
    """
    centre = (np.arange(size_out, dtype=np.float64) + 0.5) * (size_in / size_out) - 0.5
    centre = np.clip(centre, 0, size_in - 1)
    low = np.floor(centre).astype(np.int64)
    high = np.minimum(low + 1, size_in - 1)
    weight = centre - low
    matrix = np.zeros((size_out, size_in))
    rows = np.arange(size_out)
    np.add.at(matrix, (rows, low), 1 - weight)
    np.add.at(matrix, (rows, high), weight)
    return matrix.astype(np.float32)


def _axis_angles(head_dim: int) -> np.ndarray:
    """Angles of one axis, float32 [_ROPE_GRID, head_dim // 4]: position times 10000^(-2i / (head_dim / 2))."""
    half = head_dim // 2
    exponent = np.arange(0, half, 2, dtype=np.float32) / np.float32(half)
    # Rounded from float64, as torch's power is; numpy's own in float32 differs in the last bit for some heads.
    frequency = 1 / np.power(10000.0, exponent.astype(np.float64)).astype(np.float32)
    return np.outer(np.arange(_ROPE_GRID, dtype=np.float32), frequency).astype(np.float32)


def _positions(size: int, reference: int) -> np.ndarray:
    """Rotary positions of a scale's axis: its indices stretched to the largest scale's, then rounded."""
    return np.round(np.arange(size, dtype=np.float32) * np.float32(reference / size)).astype(np.int64)


def rope_reference(schedule: Schedule) -> tuple[int, int]:
    """The grid that rotary positions refer to: the largest of the aspect ratio, whatever the resolution."""
    aspect_ratio = find_aspect_ratio(schedule)
    return full_schedule(aspect_ratio)[-1] if aspect_ratio else schedule[-1]


def rope_angles(grid: tuple[int, int], reference: tuple[int, int], head_dim: int) -> np.ndarray:
    """2-D rotary angles of one scale (Infinity with ``rope2d_normalized_by_hw=2``).

    The first half of the angles carries the row, the second the column; every scale is stretched over the
    reference grid, so that a position means the same place at every scale.

    Args:
        grid: height and width of the scale.
        reference: height and width of `rope_reference`.
        head_dim: channels of a head, a multiple of 4.

    Returns:
        float32 [height * width, head_dim // 2].
    """
    angles = _axis_angles(head_dim)
    rows = angles[_positions(grid[0], reference[0])]
    columns = angles[_positions(grid[1], reference[1])]
    height, width = grid
    return np.concatenate([np.repeat(rows, width, axis=0), np.tile(columns, (height, 1))], axis=1)


def rope_table(grid: tuple[int, int], reference: tuple[int, int], head_dim: int) -> np.ndarray:
    """Cosines, then sines of `rope_angles`, float32 [2, height * width, head_dim // 2]."""
    angles = rope_angles(grid, reference, head_dim)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def scale_constants(schedule: Schedule, head_dim: int, latent: Schedule) -> dict[str, np.ndarray]:
    """Every constant that a generation over `schedule` reads, by name and scale.

    Args:
        schedule: token grids, coarse to fine.
        head_dim: channels of a head.
        latent: grids of the codes, coarse to fine; the token grids, or twice those with spatial patchify.

    Returns:
        ``rope.S`` [2, L, head_dim // 2]; ``up_rows.S`` [H, h] and ``up_columns.S`` [W, w] from the codes of
        scale S to the final grid; ``next_rows.S`` [h', H] and ``next_columns.S`` [w', W] from there to the
        next scale; ``carry_rows.S`` [h', h] and ``carry_columns.S`` [w', w] from the tokens of scale S to the
        next scale's. The last scale has itself as next.
    """
    reference = rope_reference(schedule)
    final = latent[-1]
    constants: dict[str, np.ndarray] = {}
    for scale, grid in enumerate(schedule):
        following = min(scale + 1, len(schedule) - 1)
        constants[f"rope.{scale}"] = rope_table(grid, reference, head_dim)
        for axis, name in enumerate(("rows", "columns")):
            constants[f"up_{name}.{scale}"] = resize_matrix(latent[scale][axis], final[axis])
            constants[f"next_{name}.{scale}"] = resize_matrix(final[axis], latent[following][axis])
            constants[f"carry_{name}.{scale}"] = resize_matrix(grid[axis], schedule[following][axis])
    return constants


def restore_constants(schedule: Schedule) -> dict[str, np.ndarray]:
    """Matrices ``restore_rows.FROM.TO`` and ``restore_columns.FROM.TO`` from every scale's tokens to later ones'."""
    return {
        f"restore_{name}.{start}.{end}": resize_matrix(schedule[start][axis], schedule[end][axis])
        for start in range(len(schedule))
        for end in range(start, len(schedule))
        for axis, name in enumerate(("rows", "columns"))
    }
