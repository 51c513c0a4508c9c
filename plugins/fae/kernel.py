"""FlashAttentionEntropy in Triton: one pass over the keys, nothing of size N x N.

Scores are kept in base 2: with z = (s - m) log2 e, where m is the running maximum, the loop
holds l = sum 2^z and t = sum 2^z z. When m grows, both are scaled by a = 2^d for the drop d
in z, and t also shifts by l d: a row's work only. In the end

    o = (sum 2^z v) / l,    entropy = (log2 l - t / l) ln 2.

Taking z rather than s into t costs nothing, since z is the exponent anyway, and keeps the
entropy exact for large scores, where the difference of two large numbers would lose it.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["contiguous_kernel", "strided_kernel"]

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
# Finite, so that the first rescale multiplies zero by a number and not by infinity.
_LOWEST = tl.constexpr(-1.0e38)


@triton.jit
def _load_tile(
    base, first, stride, rows, dims, inside,
    MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
):  # fmt: skip
    """Load rows ``first + rows`` of a [length, HEAD_DIM] matrix, zeros where there is none."""
    pointers = base + tl.cast(first, tl.int64) * stride + rows[:, None] * stride + dims[None, :]
    if MASKED:
        tile = tl.load(pointers, mask=inside[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)
    elif HEAD_DIM == PADDED_DIM:
        tile = tl.load(pointers)
    else:
        tile = tl.load(pointers, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    return tile


@triton.jit
def _attend_tile(
    acc, m, l, t, query, k, v, length, stride_k, stride_v, first,
    HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """Take one tile of keys into the running (acc, m, l, t)."""
    rows = tl.arange(0, BLOCK_N)
    dims = tl.arange(0, PADDED_DIM)
    inside = rows < length - first
    keys = _load_tile(k, first, stride_k, rows, dims, inside, MASKED, HEAD_DIM, PADDED_DIM)
    s = tl.dot(query, keys.T, input_precision="ieee")
    if MASKED:
        s = tl.where(inside[None, :], s, float("-inf"))
    m_new = tl.maximum(m, tl.max(s, 1) * _LOG2E)
    z = s * _LOG2E - m_new[:, None]
    p = tl.exp2(z)
    drop = m - m_new
    scale = tl.exp2(drop)
    if ENTROPY:
        # The tail's absent keys have p = 0 and z = -inf, whose product is not a number.
        terms = tl.where(inside[None, :], p * z, 0.0) if MASKED else p * z
        t = scale * (t + l * drop) + tl.sum(terms, 1)
    l = l * scale + tl.sum(p, 1)
    acc = acc * scale[:, None]
    values = _load_tile(v, first, stride_v, rows, dims, inside, MASKED, HEAD_DIM, PADDED_DIM)
    acc = tl.dot(p.to(values.dtype), values, acc, input_precision="ieee")
    return acc, m_new, l, t


@triton.jit
def _attend_piece(
    acc, m, l, t, query, k, v, length, stride_k, stride_v,
    HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, BLOCK_N: tl.constexpr,
    ENTROPY: tl.constexpr,
):  # fmt: skip
    """Take a piece of keys into the running state: whole tiles first, then a masked rest."""
    whole = length // BLOCK_N * BLOCK_N
    for first in range(0, whole, BLOCK_N):
        acc, m, l, t = _attend_tile(
            acc, m, l, t, query, k, v, length, stride_k, stride_v, first,
            HEAD_DIM, PADDED_DIM, BLOCK_N, False, ENTROPY,
        )  # fmt: skip
    if whole < length:
        acc, m, l, t = _attend_tile(
            acc, m, l, t, query, k, v, length, stride_k, stride_v, whole,
            HEAD_DIM, PADDED_DIM, BLOCK_N, True, ENTROPY,
        )  # fmt: skip
    return acc, m, l, t


@triton.jit
def _attend(
    q, stride_q, k0, v0, length0, stride_k0, stride_v0, k1, v1, length1, stride_k1, stride_v1,
    index, o, stride_o, entropy, queries, block,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PIECES: tl.constexpr, GATHER: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """Attend from one block of queries of one head; the pointers are that head's."""
    PADDED_DIM: tl.constexpr = triton.next_power_of_2(HEAD_DIM)
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, PADDED_DIM)
    present = (rows < queries)[:, None] & (dims < HEAD_DIM)[None, :]
    source = rows.to(tl.int64)
    if GATHER:
        source = tl.load(index + rows, mask=rows < queries, other=0).to(tl.int64)
    query = tl.load(q + source[:, None] * stride_q + dims[None, :], mask=present, other=0.0)

    acc = tl.zeros([BLOCK_M, PADDED_DIM], tl.float32)
    m = tl.full([BLOCK_M], _LOWEST, tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    t = tl.zeros([BLOCK_M], tl.float32)
    acc, m, l, t = _attend_piece(
        acc, m, l, t, query, k0, v0, length0, stride_k0, stride_v0,
        HEAD_DIM, PADDED_DIM, BLOCK_N, ENTROPY,
    )  # fmt: skip
    if PIECES == 2:
        acc, m, l, t = _attend_piece(
            acc, m, l, t, query, k1, v1, length1, stride_k1, stride_v1,
            HEAD_DIM, PADDED_DIM, BLOCK_N, ENTROPY,
        )  # fmt: skip

    output = (acc / l[:, None]).to(o.dtype.element_ty)
    tl.store(o + rows.to(tl.int64)[:, None] * stride_o + dims[None, :], output, mask=present)
    if ENTROPY:
        nats = (tl.log2(l) - t / l) * _LN2
        # Rounding may leave a one-hot row just below zero; not a number stays what it is.
        tl.store(entropy + rows, tl.where(nats < 0, 0.0, nats), mask=rows < queries)


@triton.jit(do_not_specialize=["heads", "queries", "length0", "length1"])
def strided_kernel(
    q, k0, v0, k1, v1, index, o, entropy, heads, queries, length0, length1,
    q_batch, q_head, q_row, k0_batch, k0_head, k0_row, v0_batch, v0_head, v0_row,
    k1_batch, k1_head, k1_row, v1_batch, v1_head, v1_row, o_batch, o_head, o_row,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PIECES: tl.constexpr, GATHER: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """Attend with any strides, keys in one or two pieces, queries gathered or not.

    The grid is (blocks of queries, batch * heads). ``x_batch``, ``x_head`` and ``x_row`` are
    strides in elements; the innermost stride is 1. ``index`` is [batch, queries] and
    ``entropy`` [batch, heads, queries], both contiguous.
    """
    block = tl.program_id(0)
    b = (tl.program_id(1) // heads).to(tl.int64)
    h = (tl.program_id(1) % heads).to(tl.int64)
    _attend(
        q + b * q_batch + h * q_head, q_row,
        k0 + b * k0_batch + h * k0_head, v0 + b * v0_batch + h * v0_head, length0, k0_row, v0_row,
        k1 + b * k1_batch + h * k1_head, v1 + b * v1_batch + h * v1_head, length1, k1_row, v1_row,
        index + b * queries, o + b * o_batch + h * o_head, o_row,
        entropy + (b * heads + h) * queries, queries, block,
        HEAD_DIM, BLOCK_M, BLOCK_N, PIECES, GATHER, ENTROPY,
    )  # fmt: skip


@triton.jit(do_not_specialize=["queries", "keys"])
def contiguous_kernel(
    q, k, v, queries, keys, o, entropy,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Attend with contiguous tensors; the arguments come in the order that TensorRT passes.

    The grid is (blocks of queries, batch * heads).
    """
    block = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    q += row * queries * HEAD_DIM
    k += row * keys * HEAD_DIM
    v += row * keys * HEAD_DIM
    o += row * queries * HEAD_DIM
    entropy += row * queries
    _attend(
        q, HEAD_DIM, k, v, keys, HEAD_DIM, HEAD_DIM, k, v, 0, HEAD_DIM, HEAD_DIM, q,
        o, HEAD_DIM, entropy, queries, block,
        HEAD_DIM, BLOCK_M, BLOCK_N, 1, False, True,
    )  # fmt: skip
