"""Rounds the rows of a matrix to fp8, after GELU where that comes first."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from toprovar.runtime.cuda.scaled import LARGEST, LEAST, Scaled

__all__ = ["round_rows", "rounded_row"]

_LARGEST = tl.constexpr(LARGEST)
_LEAST = tl.constexpr(LEAST)


@triton.jit
def rounded_row(value, out, factors, row, part_rows, part_stride, channel, inside, WIDTH: tl.constexpr):
    """Writes one row, fp32 and 0 outside, and its factor."""
    factor = tl.maximum(tl.max(tl.abs(value), 0), _LEAST) / _LARGEST
    value = tl.minimum(tl.maximum(value / factor, -_LARGEST), _LARGEST)
    tl.store(out + row * WIDTH + channel, value.to(out.dtype.element_ty), mask=inside)
    tl.store(factors + (row // part_rows) * part_stride + row % part_rows, factor)


@triton.jit(do_not_specialize=["part_rows", "part_stride"])
def _round_rows(
    x, out, factors, part_rows, part_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr
):  # fmt: skip
    """One row."""
    row = tl.program_id(0).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < WIDTH
    value = tl.load(x + row * WIDTH + channel, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        # x * (1 + tanh u) / 2 is x / (1 + exp(-2 u))
        value = value / (1 + tl.exp(-1.5957691216057308 * (value + 0.044715 * value * value * value)))
    rounded_row(value, out, factors, row, part_rows, part_stride, channel, inside, WIDTH)


def round_rows(x: torch.Tensor, out: Scaled, gelu: bool) -> None:
    """Launches; see `PlainOps.round` and `PlainOps.gelu_round`. The matrix [M, C] is contiguous."""
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    _round_rows[(rows,)](
        x, out.values, out.factors, out.part_rows, out.factors.stride(0),
        WIDTH=width, BLOCK=block, GELU=gelu, num_warps=min(max(block // 256, 1), 16),
    )  # fmt: skip
