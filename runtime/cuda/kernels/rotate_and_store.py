"""Norms and rotates queries and keys of a packed product, and writes keys and values into the cache."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["rotate_and_store"]


@triton.jit
def _unit(x):
    """Rows [heads, D] of length 1."""
    return x / tl.maximum(tl.sqrt(tl.sum(x * x, 1)), 1e-12)[:, None]


@triton.jit
def _rotated(x, cosine, sine, HEADS: tl.constexpr, DIM: tl.constexpr):
    """Neighbouring channels of rows [heads, D], turned."""
    even, odd = tl.split(tl.reshape(x, [HEADS, DIM // 2, 2]))
    turned = tl.join(cosine * even - sine * odd, sine * even + cosine * odd)
    return tl.reshape(turned, [HEADS, DIM])


@triton.jit(do_not_specialize=["tokens", "kept", "halves", "past"])
def _rotate_and_store(
    qkv, gain, rope, order, keys, values, tokens, kept, halves, past, cache_row, cache_head,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_DIM: tl.constexpr, ORDERED: tl.constexpr,
):  # fmt: skip
    """Some heads of one token of one row."""
    place = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    token = place.to(tl.int64)
    if ORDERED:
        token = tl.load(order + (row // halves) * tokens + place).to(tl.int64)
    head = tl.program_id(2) * BLOCK_HEADS + tl.arange(0, BLOCK_HEADS)
    dim = tl.arange(0, BLOCK_DIM)
    inside = (head < HEADS)[:, None] & (dim < DIM)[None, :]
    source = qkv + (row * kept + place) * (3 * HEADS * DIM) + head[:, None] * DIM + dim[None, :]
    pair = tl.arange(0, BLOCK_DIM // 2)
    angle = token * (DIM // 2) + pair
    cosine = tl.load(rope + angle, mask=pair < DIM // 2, other=0.0)[None, :]
    sine = tl.load(rope + tokens.to(tl.int64) * (DIM // 2) + angle, mask=pair < DIM // 2, other=0.0)[None, :]

    query = _unit(tl.load(source, mask=inside, other=0.0).to(tl.float32))
    query *= tl.load(gain + head, mask=head < HEADS, other=0.0)[:, None]
    query = _rotated(query, cosine, sine, BLOCK_HEADS, BLOCK_DIM)
    tl.store(source, query.to(qkv.dtype.element_ty), mask=inside)

    target = row * cache_row + head[:, None].to(tl.int64) * cache_head + (past + place) * DIM + dim[None, :]
    key = _unit(tl.load(source + HEADS * DIM, mask=inside, other=0.0).to(tl.float32))
    key = _rotated(key, cosine, sine, BLOCK_HEADS, BLOCK_DIM)
    tl.store(keys + target, key.to(keys.dtype.element_ty), mask=inside)
    value = tl.load(source + 2 * HEADS * DIM, mask=inside, other=0.0)
    tl.store(values + target, value.to(values.dtype.element_ty), mask=inside)


def rotate_and_store(
    qkv: torch.Tensor,
    gain: torch.Tensor,
    rope: torch.Tensor,
    order: torch.Tensor | None,
    halves: int,
    keys: torch.Tensor,
    values: torch.Tensor,
    past: int,
) -> None:
    """Launches; see `PlainOps.rotate_and_store`.

    Args:
        qkv: [R, K, 3, H, D], contiguous.
        gain: fp32 [H].
        rope: fp32 [2, L, D / 2], contiguous.
        order: int64 [B, L], contiguous, or None.
        halves: rows an image.
        keys: [R, H, total, D], dense in the last two axes.
        values: of the same strides.
        past: tokens that are cached already.
    """
    rows, kept, _, heads, dim = qkv.shape
    block_dim = triton.next_power_of_2(dim)
    block_heads = min(triton.next_power_of_2(heads), max(2048 // block_dim, 1))
    _rotate_and_store[(kept, rows, triton.cdiv(heads, block_heads))](
        qkv, gain, rope, order if order is not None else qkv, keys, values, rope.shape[1], kept, halves, past,
        keys.stride(0), keys.stride(1),
        HEADS=heads, DIM=dim, BLOCK_HEADS=block_heads, BLOCK_DIM=block_dim, ORDERED=order is not None, num_warps=4,
    )  # fmt: skip
