"""Adds cached updates, resized bilinearly, to the tokens that a layer did not compute."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["restore"]


@triton.jit
def _neighbour(update, row, column, columns, channel, inside, WIDTH: tl.constexpr):
    place = (row * columns + column).to(tl.int64) * WIDTH
    return tl.load(update + place + channel, mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["tokens", "kept", "halves", "width", "rows_from", "columns_from"])
def _restore(
    x, update, order, row_low, row_weight, column_low, column_weight, tokens, kept, halves, width,
    rows_from, columns_from, update_row, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ORDERED: tl.constexpr,
):  # fmt: skip
    """One token of one row, from its four neighbours on the other grid."""
    place = kept + tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    token = place
    if ORDERED:
        token = tl.load(order + (row // halves) * tokens + place).to(tl.int32)
    channel = tl.arange(0, BLOCK)
    inside = channel < WIDTH
    update += row * update_row
    top, left = tl.load(row_low + token // width), tl.load(column_low + token % width)
    bottom, right = tl.minimum(top + 1, rows_from - 1), tl.minimum(left + 1, columns_from - 1)
    down, across = tl.load(row_weight + token // width), tl.load(column_weight + token % width)
    upper = (1 - across) * _neighbour(update, top, left, columns_from, channel, inside, WIDTH)
    upper += across * _neighbour(update, top, right, columns_from, channel, inside, WIDTH)
    lower = (1 - across) * _neighbour(update, bottom, left, columns_from, channel, inside, WIDTH)
    lower += across * _neighbour(update, bottom, right, columns_from, channel, inside, WIDTH)
    pointer = x + (row * tokens + token) * WIDTH + channel
    value = tl.load(pointer, mask=inside, other=0.0).to(tl.float32) + (1 - down) * upper + down * lower
    tl.store(pointer, value.to(x.dtype.element_ty), mask=inside)


def restore(
    x: torch.Tensor,
    update: torch.Tensor,
    order: torch.Tensor | None,
    kept: int,
    halves: int,
    row_low: torch.Tensor,
    row_weight: torch.Tensor,
    column_low: torch.Tensor,
    column_weight: torch.Tensor,
    grid: tuple[int, int],
) -> None:
    """Launches; see `PlainOps.restore`.

    Args:
        x: [R, L, C], contiguous.
        update: [R, U, C], dense in the last two axes.
        order: int64 [B, L], contiguous, or None.
        kept: tokens at the front that were computed.
        halves: rows an image.
        row_low: as in `ResizeTables`; likewise the next three.
        row_weight: fp32.
        column_low: int32.
        column_weight: fp32.
        grid: rows and columns of the update.
    """
    rows, tokens, width = x.shape
    block = triton.next_power_of_2(width)
    _restore[(tokens - kept, rows)](
        x, update, order if order is not None else x, row_low, row_weight, column_low, column_weight,
        tokens, kept, halves, len(column_low), *grid, update.stride(0),
        WIDTH=width, BLOCK=block, ORDERED=order is not None, num_warps=min(max(block // 256, 1), 16),
    )  # fmt: skip
