"""Where the tokens of a scale lie, from the sizes of a step's inputs alone, so that it exports."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from toprovar.anchors import ANCHOR_STEP, anchor_count

__all__ = ["anchors", "is_anchor", "places", "square_distances"]


def places(given: Mapping[str, Tensor]) -> Tensor:
    """Row and column of every token, float32 [L, 2]."""
    return torch.stack(_rows_and_columns(given), dim=-1).to(torch.float32)


def is_anchor(given: Mapping[str, Tensor]) -> Tensor:
    """Which tokens are anchors (`toprovar.anchors`), bool [L]."""
    rows, columns = (
        (place % ANCHOR_STEP == 0) | (place == size - 1)
        for place, size in zip(_rows_and_columns(given), _sizes(given), strict=True)
    )
    return rows & columns


def anchors(given: Mapping[str, Tensor]) -> Tensor:
    """Positions of the anchors among the tokens, int64 [A], row by row."""
    height, width = _sizes(given)
    device = given["rope"].device
    rows, columns = (
        (torch.arange(anchor_count(size), device=device) * ANCHOR_STEP).clamp_max(size - 1) for size in (height, width)
    )
    return (rows.unsqueeze(1) * width + columns).flatten()


def square_distances(places: Tensor, others: Tensor) -> Tensor:
    """Squared distances [..., N, M] of places [..., N, 2] and [..., M, 2]; exact, as all numbers are whole."""
    products = places @ others.transpose(-1, -2)
    return places.square().sum(-1, keepdim=True) - 2 * products + others.square().sum(-1).unsqueeze(-2)


def _sizes(given: Mapping[str, Tensor]) -> tuple[int, int]:
    return given["carry_rows"].shape[1], given["carry_columns"].shape[1]


def _rows_and_columns(given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    index = torch.arange(given["rope"].shape[1], device=given["rope"].device)
    width = given["carry_columns"].shape[1]
    row = index // width
    # ONNX's export knows no remainder of a symbolic size.
    return row, index - row * width
