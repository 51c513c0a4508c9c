"""FlashAttentionEntropy for Hopper in Gluon: a producer warp and two warp groups.

The producer warp streams tiles of keys and values into shared memory with the tensor memory
accelerator. Each of the two consumer groups owns 64 queries, so that one group's softmax runs
while the other's matrix products do; inside a group, the scores of the next tile and the
output of this one are in flight together. The arithmetic is that of ``kernel``.
"""

from __future__ import annotations

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

__all__ = ["hopper_kernel"]

# Triton 3.7 renamed it.
_copy_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared

_LOG2E = gl.constexpr(1.4426950408889634)
_LN2 = gl.constexpr(0.6931471805599453)
_LOWEST = gl.constexpr(-1.0e38)
_GROUP = gl.constexpr(64)


@gluon.jit
def _key_row(tile, tiles, BLOCK_N: gl.constexpr):
    """First key of the ``tile``-th tile of a piece: the last, partial one comes first."""
    return gl.where(tile == 0, tiles - 1, tile - 1) * BLOCK_N


@gluon.jit
def _produce(
    k0, v0, k1, v1, k_ring, v_ring, k_full, k_free, v_full, v_free, b, h, tiles0, tiles1,
    BLOCK_N: gl.constexpr, STAGES: gl.constexpr, PIECES: gl.constexpr,
):  # fmt: skip
    """Fill the rings of keys and values."""
    for i in range(tiles0 + tiles1):
        slot = i % STAGES
        free = ((i // STAGES) & 1) ^ 1
        mbarrier.wait(k_free.index(slot), free)
        mbarrier.expect(k_full.index(slot), k0.block_type.nbytes)
        if PIECES == 1 or i < tiles0:
            row = _key_row(i, tiles0, BLOCK_N)
            _copy_tile(k0, [b, h, row, 0], k_full.index(slot), k_ring.index(slot))
        else:
            row = _key_row(i - tiles0, tiles1, BLOCK_N)
            _copy_tile(k1, [b, h, row, 0], k_full.index(slot), k_ring.index(slot))
        mbarrier.wait(v_free.index(slot), free)
        mbarrier.expect(v_full.index(slot), v0.block_type.nbytes)
        if PIECES == 1 or i < tiles0:
            _copy_tile(v0, [b, h, row, 0], v_full.index(slot), v_ring.index(slot))
        else:
            _copy_tile(v1, [b, h, row, 0], v_full.index(slot), v_ring.index(slot))


@gluon.jit
def _softmax(
    s, m, l, t, keys,
    BLOCK_N: gl.constexpr, SCORES: gl.constexpr, MASKED: gl.constexpr, ENTROPY: gl.constexpr,
):  # fmt: skip
    """Turn a tile of scores into weights and update (m, l, t); ``keys`` are present."""
    if MASKED:
        inside = gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, SCORES)) < keys
        s = gl.where(inside[None, :], s, float("-inf"))
    m_new = gl.maximum(m, gl.max(s, 1) * _LOG2E)
    z = s * _LOG2E - m_new[:, None]
    p = gl.exp2(z)
    drop = m - m_new
    scale = gl.exp2(drop)
    if ENTROPY:
        terms = p * z
        if MASKED:
            terms = gl.where(inside[None, :], terms, 0.0)
        t = scale * (t + l * drop) + gl.sum(terms, 1)
    l = l * scale + gl.sum(p, 1)
    return p, m_new, l, t, scale


@gluon.jit
def _step(
    i, keys, acc, m, l, t, p, q_tile, k_ring, v_ring, k_full, k_free, v_full, v_free,
    BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr,
    SCORES: gl.constexpr, OUTPUT: gl.constexpr, MASKED: gl.constexpr, ENTROPY: gl.constexpr,
):  # fmt: skip
    """Take tile ``i``: its scores overlap with the output of tile ``i - 1``."""
    slot = i % STAGES
    last = (i - 1) % STAGES
    mbarrier.wait(k_full.index(slot), (i // STAGES) & 1)
    keys_t = k_ring.index(slot).reshape([BLOCK_N, HEAD_DIM]).permute((1, 0))
    blank = gl.zeros([_GROUP, BLOCK_N], gl.float32, SCORES)
    s = warpgroup_mma(q_tile, keys_t, blank, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(last), ((i - 1) // STAGES) & 1)
    values = v_ring.index(last).reshape([BLOCK_N, HEAD_DIM])
    acc = warpgroup_mma(p, values, acc, is_async=True)
    s = warpgroup_mma_wait(1, deps=(s,))
    w, m, l, t, scale = _softmax(s, m, l, t, keys, BLOCK_N, SCORES, MASKED, ENTROPY)
    # Already complete: its branch keeps the assembler from moving the softmax after the wait
    # below, where it would no longer overlap with the output's product.
    mbarrier.wait(v_full.index(last), ((i - 1) // STAGES) & 1)
    acc = warpgroup_mma_wait(0, deps=(acc,))
    p_new = gl.convert_layout(w.to(p.dtype), p.type.layout)
    mbarrier.arrive(k_free.index(slot), count=1)
    mbarrier.arrive(v_free.index(last), count=1)
    acc = acc * gl.convert_layout(scale, gl.SliceLayout(1, OUTPUT))[:, None]
    return acc, m, l, t, p_new


@gluon.jit
def _consume(
    q, q_row, index, o, o_row, entropy, queries, first, q_tile, k_ring, v_ring,
    k_full, k_free, v_full, v_free, tiles0, tiles1, tail0, tail1,
    BLOCK_N: gl.constexpr, HEAD_DIM: gl.constexpr, STAGES: gl.constexpr,
    PIECES: gl.constexpr, GATHER: gl.constexpr, ENTROPY: gl.constexpr,
):  # fmt: skip
    """Attend from the 64 queries that start at ``first``."""
    PADDED_DIM: gl.constexpr = triton.next_power_of_2(HEAD_DIM)
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    OUTPUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, PADDED_DIM, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, OUTPUT, 2)
    ROWS: gl.constexpr = gl.BlockedLayout([1, 8], [256 // PADDED_DIM, PADDED_DIM // 8], [4, 1], [1, 0])

    rows = first + gl.arange(0, _GROUP, layout=gl.SliceLayout(1, ROWS))
    dims = gl.arange(0, PADDED_DIM, layout=gl.SliceLayout(0, ROWS))
    present = (rows < queries)[:, None] & (dims < HEAD_DIM)[None, :]
    source = rows.to(gl.int64)
    if GATHER:
        source = gl.load(index + rows, mask=rows < queries, other=0).to(gl.int64)
    q_tile.store(gl.load(q + source[:, None] * q_row + dims[None, :], mask=present, other=0.0))
    fence_async_shared()

    stats: gl.constexpr = gl.SliceLayout(1, SCORES)
    m = gl.full([_GROUP], _LOWEST, gl.float32, stats)
    l = gl.zeros([_GROUP], gl.float32, stats)
    t = gl.zeros([_GROUP], gl.float32, stats)
    acc = gl.zeros([_GROUP, PADDED_DIM], gl.float32, OUTPUT)

    mbarrier.wait(k_full.index(0), 0)
    keys_t = k_ring.index(0).reshape([BLOCK_N, PADDED_DIM]).permute((1, 0))
    blank = gl.zeros([_GROUP, BLOCK_N], gl.float32, SCORES)
    s = warpgroup_mma(q_tile, keys_t, blank, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, deps=(s,))
    mbarrier.arrive(k_free.index(0), count=1)
    w, m, l, t, _ = _softmax(s, m, l, t, tail0, BLOCK_N, SCORES, True, ENTROPY)
    p = gl.convert_layout(w.to(q_tile.dtype), WEIGHTS)

    for i in range(1, tiles0):
        acc, m, l, t, p = _step(
            i, 0, acc, m, l, t, p, q_tile, k_ring, v_ring, k_full, k_free, v_full, v_free,
            BLOCK_N, PADDED_DIM, STAGES, SCORES, OUTPUT, False, ENTROPY,
        )  # fmt: skip
    if PIECES == 2:
        acc, m, l, t, p = _step(
            tiles0, tail1, acc, m, l, t, p, q_tile, k_ring, v_ring, k_full, k_free, v_full,
            v_free, BLOCK_N, PADDED_DIM, STAGES, SCORES, OUTPUT, True, ENTROPY,
        )  # fmt: skip
        for i in range(tiles0 + 1, tiles0 + tiles1):
            acc, m, l, t, p = _step(
                i, 0, acc, m, l, t, p, q_tile, k_ring, v_ring, k_full, k_free, v_full, v_free,
                BLOCK_N, PADDED_DIM, STAGES, SCORES, OUTPUT, False, ENTROPY,
            )  # fmt: skip

    last = tiles0 + tiles1 - 1
    mbarrier.wait(v_full.index(last % STAGES), (last // STAGES) & 1)
    values = v_ring.index(last % STAGES).reshape([BLOCK_N, PADDED_DIM])
    acc = warpgroup_mma(p, values, acc, is_async=True)
    if ENTROPY:
        lanes = first + gl.arange(0, _GROUP, layout=stats)
        nats = (gl.log2(l) - t / l) * _LN2
        # Rounding may leave a one-hot row just below zero; not a number stays what it is.
        gl.store(entropy + lanes, gl.where(nats < 0, 0.0, nats), mask=lanes < queries)
    acc = warpgroup_mma_wait(0, deps=(acc,))

    inverse = gl.convert_layout(1.0 / l, gl.SliceLayout(1, OUTPUT))
    q_tile.store((acc * inverse[:, None]).to(q_tile.dtype))
    gl.store(o + rows.to(gl.int64)[:, None] * o_row + dims[None, :], q_tile.load(ROWS), mask=present)


@gluon.jit(do_not_specialize=["heads", "queries", "length0", "length1"])
def hopper_kernel(
    q, k0, v0, k1, v1, index, o, entropy, heads, queries, length0, length1,
    q_batch, q_head, q_row, o_batch, o_head, o_row,
    HEAD_DIM: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr,
    PIECES: gl.constexpr, GATHER: gl.constexpr, ENTROPY: gl.constexpr,
):  # fmt: skip
    """Attend from 128 queries of one head.

    The grid is (blocks of 128 queries, batch * heads); four warps, that is one consumer
    group, are launched and the rest are added here. ``k0`` to ``v1`` are descriptors of
    [batch, heads, length, head_dim] with blocks of
    [1, 1, BLOCK_N, HEAD_DIM], the head dimension rounded up to a power of two.
    """
    block = gl.program_id(0)
    b = gl.program_id(1) // heads
    h = gl.program_id(1) % heads
    q += b.to(gl.int64) * q_batch + h.to(gl.int64) * q_head
    o += b.to(gl.int64) * o_batch + h.to(gl.int64) * o_head
    index += b.to(gl.int64) * queries
    entropy += gl.program_id(1).to(gl.int64) * queries
    tiles0 = gl.cdiv(length0, BLOCK_N)
    tail0 = length0 - (tiles0 - 1) * BLOCK_N
    if PIECES == 2:
        tiles1 = gl.cdiv(length1, BLOCK_N)
        tail1 = length1 - (tiles1 - 1) * BLOCK_N
    else:
        tiles1 = 0
        tail1 = 0

    PADDED_DIM: gl.constexpr = triton.next_power_of_2(HEAD_DIM)
    dtype: gl.constexpr = k0.dtype
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([_GROUP, PADDED_DIM], dtype)
    q_tiles = gl.allocate_shared_memory(dtype, [2, _GROUP, PADDED_DIM], q_layout)
    k_ring = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, PADDED_DIM], k0.layout)
    v_ring = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, BLOCK_N, PADDED_DIM], v0.layout)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for slot in gl.static_range(STAGES):
        mbarrier.init(k_full.index(slot), count=1)
        mbarrier.init(k_free.index(slot), count=2)
        mbarrier.init(v_full.index(slot), count=1)
        mbarrier.init(v_free.index(slot), count=2)
    fence_async_shared()

    first = block * 2 * _GROUP
    gl.warp_specialize(
        [
            (_consume, (
                q, q_row, index, o, o_row, entropy, queries, first, q_tiles.index(0),
                k_ring, v_ring, k_full, k_free, v_full, v_free, tiles0, tiles1, tail0, tail1,
                BLOCK_N, HEAD_DIM, STAGES, PIECES, GATHER, ENTROPY,
            )),
            (_consume, (
                q, q_row, index, o, o_row, entropy, queries, first + _GROUP, q_tiles.index(1),
                k_ring, v_ring, k_full, k_free, v_full, v_free, tiles0, tiles1, tail0, tail1,
                BLOCK_N, HEAD_DIM, STAGES, PIECES, GATHER, ENTROPY,
            )),
            (_produce, (
                k0, v0, k1, v1, k_ring, v_ring, k_full, k_free, v_full, v_free, b, h,
                tiles0, tiles1, BLOCK_N, STAGES, PIECES,
            )),
        ],
        [4, 1],
        [240, 24],  # Registers a thread; the first group gets what remains.
    )  # fmt: skip
