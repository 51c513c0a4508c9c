"""A rival for ``attention_variants.py``: plain Triton on tensor descriptors, good for timing only.

It is the arithmetic of ``plugins/fae/kernel.py`` without masks: keys that a last, partial tile
lacks are read as zeros and counted, so only a whole number of tiles gives the right result.
"""

# A Triton kernel cannot carry Python types.
# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

__all__ = ["attend", "tma_kernel"]

_LOG2E = tl.constexpr(1.4426950408889634)
_LN2 = tl.constexpr(0.6931471805599453)
_LOWEST = tl.constexpr(-1.0e38)


@triton.jit
def tma_kernel(
    q_tiles, k_tiles, v_tiles, o_tiles, entropy, heads, queries, keys,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPECIALIZE: tl.constexpr,
):  # fmt: skip
    """Attend from BLOCK_M queries of one head; the grid is (blocks of queries, batch * heads)."""
    first_query = tl.program_id(0) * BLOCK_M
    b = tl.program_id(1) // heads
    h = tl.program_id(1) % heads
    q = q_tiles.load([b, h, first_query, 0]).reshape(BLOCK_M, HEAD_DIM)
    acc = tl.zeros([BLOCK_M, HEAD_DIM], tl.float32)
    m = tl.full([BLOCK_M], _LOWEST, tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    t = tl.zeros([BLOCK_M], tl.float32)
    for first in tl.range(0, keys, BLOCK_N, warp_specialize=SPECIALIZE):
        k = k_tiles.load([b, h, first, 0]).reshape(BLOCK_N, HEAD_DIM)
        s = tl.dot(q, k.T)
        m_new = tl.maximum(m, tl.max(s, 1) * _LOG2E)
        z = s * _LOG2E - m_new[:, None]
        p = tl.exp2(z)
        drop = m - m_new
        scale = tl.exp2(drop)
        t = scale * (t + l * drop) + tl.sum(p * z, 1)
        l = l * scale + tl.sum(p, 1)
        acc = acc * scale[:, None]
        v = v_tiles.load([b, h, first, 0]).reshape(BLOCK_N, HEAD_DIM)
        acc = tl.dot(p.to(v.dtype), v, acc)
        m = m_new
    output = (acc / l[:, None]).to(q.dtype)
    o_tiles.store([b, h, first_query, 0], output.reshape(1, 1, BLOCK_M, HEAD_DIM))
    rows = first_query + tl.arange(0, BLOCK_M)
    nats = (tl.log2(l) - t / l) * _LN2
    tl.store(entropy + tl.program_id(1) * queries + rows, nats, mask=rows < queries)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    block_m: int,
    block_n: int,
    num_warps: int,
    num_stages: int,
    specialize: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launch the kernel.

    Args:
        q: Queries [batch, heads, queries, head_dim], innermost axis dense.
        k: Keys [batch, heads, keys, head_dim].
        v: Values, same shape as the keys.
        block_m: Queries a program.
        block_n: Keys a step.
        num_warps: Warps a program.
        num_stages: Depth of the software pipeline over the keys.
        specialize: Let Triton give loads and products to different warps.

    Returns:
        The output, laid out as ``q``, and the entropy, float32 [batch, heads, queries].
    """
    batch, heads, queries, head_dim = q.shape
    output = torch.empty_like(q)
    entropy = torch.empty(batch, heads, queries, device=q.device)

    def describe(tensor: torch.Tensor, rows: int) -> TensorDescriptor:
        return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [1, 1, rows, head_dim])

    tma_kernel[(triton.cdiv(queries, block_m), batch * heads)](
        describe(q, block_m), describe(k, block_n), describe(v, block_n), describe(output, block_m),
        entropy, heads, queries, k.shape[2],
        HEAD_DIM=head_dim, BLOCK_M=block_m, BLOCK_N=block_n, SPECIALIZE=specialize,
        num_warps=num_warps, num_stages=num_stages,
    )  # fmt: skip
    return output, entropy
