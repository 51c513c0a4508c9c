"""Attention to the text, which is short and differs in length from row to row."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

__all__ = ["attend_text"]

_LOWEST = tl.constexpr(-1.0e38)


@triton.jit(do_not_specialize=["kept"])
def _attend_text(
    query, keys, values, lengths, out, kept, scale, query_row, query_token, text_row, text_token, length_row,
    out_row, out_token,
    HEADS: tl.constexpr, DIM: tl.constexpr, BLOCK_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """A block of queries of one head; strides in elements, ``scale`` times log2 e."""
    row = (tl.program_id(1) // HEADS).to(tl.int64)
    head = tl.program_id(1) % HEADS
    place = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    dim = tl.arange(0, BLOCK_DIM)
    present = (place < kept)[:, None] & (dim < DIM)[None, :]
    channel = head * DIM + dim[None, :]
    asked = tl.load(query + row * query_row + place[:, None].to(tl.int64) * query_token + channel, present, other=0.0)
    length = tl.load(lengths + row * length_row)
    m = tl.full([BLOCK_M], _LOWEST, tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_DIM], tl.float32)
    for first in range(0, length, BLOCK_N):
        token = first + tl.arange(0, BLOCK_N)
        known = (token < length)[:, None] & (dim < DIM)[None, :]
        place_of = row * text_row + token[:, None].to(tl.int64) * text_token + channel
        s = tl.dot(asked, tl.load(keys + place_of, known, other=0.0).T, input_precision="ieee") * scale
        s = tl.where((token < length)[None, :], s, float("-inf"))
        m_new = tl.maximum(m, tl.max(s, 1))
        p = tl.exp2(s - m_new[:, None])
        factor = tl.exp2(m - m_new)
        l = l * factor + tl.sum(p, 1)
        seen = tl.load(values + place_of, known, other=0.0)
        acc = tl.dot(p.to(seen.dtype), seen, acc * factor[:, None], input_precision="ieee")
        m = m_new
    place_out = row * out_row + place[:, None].to(tl.int64) * out_token + channel
    tl.store(out + place_out, (acc / l[:, None]).to(out.dtype.element_ty), present)


def attend_text(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor, out: torch.Tensor
) -> None:
    """Launches; see `PlainOps.attend_text`.

    Args:
        query: [R, K, H, D], dense in the last two axes.
        keys: [R, T, H, D], likewise.
        values: of the same strides.
        lengths: int32 [R], any stride.
        out: as `query`.
    """
    rows, kept, heads, dim = query.shape
    block = 64 if kept > 16 else 16
    _attend_text[(triton.cdiv(kept, block), rows * heads)](
        query, keys, values, lengths, out, kept, math.log2(math.e) / math.sqrt(dim),
        *query.stride()[:2], *keys.stride()[:2], lengths.stride(0), *out.stride()[:2],
        HEADS=heads, DIM=dim, BLOCK_DIM=max(triton.next_power_of_2(dim), 16), BLOCK_M=block, BLOCK_N=32,
        num_warps=4, num_stages=1,
    )  # fmt: skip
