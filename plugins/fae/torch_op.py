"""FlashAttentionEntropy as torch operators.

``torch.ops.toprovar.flash_attention_entropy(q, k, v)`` is the operator that is exported;
``flash_attention_entropy_cached`` adds what a runtime wants beside it: keys and values in
two pieces, gathered queries and the mean over heads. Both run on a CPU (the reference) and
on a GPU (the Triton kernel), have meta functions, and mutate nothing, so that they work
under torch.compile, torch.export and CUDA graphs. They are for inference: no gradient.
"""

from __future__ import annotations

import torch

from toprovar.plugins.fae.blocked import blocked_attention
from toprovar.plugins.fae.schema import HEAD_DIMS, SCHEMA, check_shapes

__all__ = ["flash_attention_entropy", "flash_attention_entropy_cached"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def _check(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    check_shapes(q.shape, k.shape, v.shape)
    if q.dtype not in _DTYPES:
        raise TypeError(f"q is {q.dtype}, but {SCHEMA.name} needs one of {_DTYPES}")
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"q, k and v are {q.dtype}, {k.dtype} and {v.dtype}, but must share one dtype")
    if q.is_cuda and q.dtype != torch.float64 and q.shape[3] not in HEAD_DIMS:
        raise ValueError(
            f"head_dim is {q.shape[3]}, but the GPU kernel is built for {HEAD_DIMS}: "
            "pad q, k and v with zeros to the next one and cut the output"
        )


def _check_cached(
    q: torch.Tensor,
    cache_k: torch.Tensor,
    cache_v: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_index: torch.Tensor | None,
) -> None:
    _check(q, k, v)
    _check(q, cache_k, cache_v)
    if query_index is None:
        return
    if query_index.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"query_index is {query_index.dtype}, but must be int32 or int64")
    if query_index.dim() != 2 or query_index.shape[0] != q.shape[0]:
        raise ValueError(
            f"query_index has shape {tuple(query_index.shape)}, but must be "
            f"[batch, kept] with batch {q.shape[0]}: a row of query positions an image"
        )


def _output_like(q: torch.Tensor, length: int) -> torch.Tensor:
    """An output of ``length`` queries whose axes lie in memory in the order of those of ``q``."""
    if length == q.shape[2]:
        return torch.empty_like(q)
    batch, heads, _, head_dim = q.shape
    order = sorted(range(4), key=lambda axis: q.stride(axis), reverse=True)
    return torch.empty_permuted((batch, heads, length, head_dim), order, dtype=q.dtype, device=q.device)


def _entropy_dtype(q: torch.Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


@torch.library.custom_op(SCHEMA.torch_qualified_name, mutates_args=(), device_types=("cpu", "cuda"))
def flash_attention_entropy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend and measure the entropy of each query's attention.

    Args:
        q: Queries [batch, heads, queries, head_dim], any strides, with the softmax scale
            folded in.
        k: Keys [batch, heads, keys, head_dim].
        v: Values, same shape as the keys.

    Returns:
        The output, laid out in memory as ``q`` is, and the entropy in nats
        [batch, heads, queries] in float32 (float64 for float64 inputs).

    Raises:
        ValueError: The shapes do not fit, or a GPU has no kernel for the head dimension.
        TypeError: The element types differ or are not floating point.
    """
    _check(q, k, v)
    if q.is_cuda and q.dtype != torch.float64:
        from toprovar.plugins.fae.launcher import launch

        return launch(q, ((k, v),), torch.empty_like(q))
    return blocked_attention(q, k, v)


@flash_attention_entropy.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    _check(q, k, v)
    return torch.empty_like(q), q.new_empty(q.shape[:3], dtype=_entropy_dtype(q))


@torch.library.custom_op(f"{SCHEMA.torch_qualified_name}_cached", mutates_args=(), device_types=("cpu", "cuda"))
def flash_attention_entropy_cached(
    q: torch.Tensor,
    cache_k: torch.Tensor,
    cache_v: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_index: torch.Tensor | None = None,
    head_mean: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend to a cache and to new keys, without joining them in memory.

    Args:
        q: Queries [batch, heads, queries, head_dim], with the softmax scale folded in.
        cache_k: Keys of earlier scales [batch, heads, cached, head_dim].
        cache_v: Values of earlier scales.
        k: Keys of this scale [batch, heads, keys, head_dim].
        v: Values of this scale.
        query_index: Positions in ``q`` to attend from, [batch, kept], shared by the heads;
            None attends from all of them. Positions must lie within ``q``.
        head_mean: Write the entropy's mean over heads instead of one a head.

    Returns:
        The output [batch, heads, kept, head_dim] and the entropy in nats
        [batch, heads, kept], or [batch, kept] if ``head_mean``.

    Raises:
        ValueError: The shapes do not fit, or a GPU has no kernel for the head dimension.
        TypeError: The element types differ or are not floating point.
    """
    _check_cached(q, cache_k, cache_v, k, v, query_index)
    length = q.shape[2] if query_index is None else query_index.shape[1]
    result = _output_like(q, length)
    if q.is_cuda and q.dtype != torch.float64:
        from toprovar.plugins.fae.launcher import launch

        return launch(q, ((cache_k, cache_v), (k, v)), result, query_index, head_mean)
    if query_index is not None:
        rows = query_index.long()[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
        q = q.gather(2, rows)
    output, entropy = blocked_attention(q, torch.cat((cache_k, k), 2), torch.cat((cache_v, v), 2))
    return result.copy_(output), entropy.mean(1) if head_mean else entropy


@flash_attention_entropy_cached.register_fake
def _(
    q: torch.Tensor,
    cache_k: torch.Tensor,
    cache_v: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    query_index: torch.Tensor | None = None,
    head_mean: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    _check_cached(q, cache_k, cache_v, k, v, query_index)
    length = q.shape[2] if query_index is None else query_index.shape[1]
    shape = (q.shape[0], length) if head_mean else (q.shape[0], q.shape[1], length)
    return _output_like(q, length), q.new_empty(shape, dtype=_entropy_dtype(q))
