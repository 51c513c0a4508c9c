"""Sorting by counting: a token's place is the number of tokens that come before it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["deviation", "order"]


@triton.jit
def _sortable(x):
    """Integers in the order of floats: -0 equals 0, and what is no number comes last."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    ordered = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return tl.where(x == x, ordered, 0x7FFFFFFF)


@triton.jit(do_not_specialize=["tokens"])
def _order(values, order, tokens, values_row, BLOCK: tl.constexpr, OTHERS: tl.constexpr):
    """Some tokens of one image."""
    image = tl.program_id(1).to(tl.int64)
    values += image * values_row
    own = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = _sortable(tl.load(values + own, mask=own < tokens, other=0.0))
    before = tl.zeros([BLOCK], tl.int32)
    for first in range(0, tokens, OTHERS):
        other = first + tl.arange(0, OTHERS)
        theirs = _sortable(tl.load(values + other, mask=other < tokens, other=0.0))
        earlier = (theirs[None, :] < key[:, None]) | (
            (theirs[None, :] == key[:, None]) & (other[None, :] < own[:, None])
        )
        before += tl.sum((earlier & (other < tokens)[None, :]).to(tl.int32), 1)
    tl.store(order + image * tokens + before, own.to(tl.int64), mask=own < tokens)


def order(values: torch.Tensor) -> torch.Tensor:
    """The stable ascending order, int64 [B, L], of values fp32 [B, L], dense in L."""
    images, tokens = values.shape
    result = torch.empty(images, tokens, dtype=torch.int64, device=values.device)
    _order[(triton.cdiv(tokens, 32), images)](
        values, result, tokens, values.stride(0), BLOCK=32, OTHERS=128, num_warps=4
    )
    return result


@triton.jit(do_not_specialize=["tokens"])
def _deviation(x, mean, out, tokens, x_row, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """One token of one image."""
    image = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < WIDTH
    value = tl.load(x + image * x_row + tl.program_id(0).to(tl.int64) * WIDTH + channel, mask=inside, other=0.0)
    far = tl.where(inside, value.to(tl.float32) - tl.load(mean + image * WIDTH + channel, mask=inside, other=0.0), 0.0)
    tl.store(out + image * tokens + tl.program_id(0), -tl.sum(far * far, 0))


def deviation(x: torch.Tensor) -> torch.Tensor:
    """Minus the squared distance of tokens [B, L, C], dense in the last two axes, from their mean, fp32 [B, L]."""
    images, tokens, width = x.shape
    block = triton.next_power_of_2(width)
    out = torch.empty(images, tokens, device=x.device)
    mean = x.mean(1, dtype=torch.float32)
    _deviation[(tokens, images)](
        x, mean, out, tokens, x.stride(0), WIDTH=width, BLOCK=block, num_warps=min(max(block // 256, 1), 16)
    )
    return out
