"""FlashAttentionEntropy in plain torch: slow, short, and what every kernel is judged by."""

from __future__ import annotations

import torch

from toprovar.plugins.fae.schema import check_shapes

__all__ = ["attention_with_entropy"]


def attention_with_entropy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend and measure how spread out each query's attention is.

    With s = q k^T, m = max s, l = sum exp(s - m) and t = sum exp(s - m) (s - m), the
    entropy of softmax(s) is log l - t / l. No logarithm of a weight is taken, so a weight
    that underflows to zero adds zero. A non-finite input gives a non-finite result.

    Args:
        q: Queries [batch, heads, queries, head_dim], with the softmax scale folded in.
        k: Keys [batch, heads, keys, head_dim].
        v: Values, same shape as the keys.

    Returns:
        The attention output (dtype of ``q``) and the entropy in nats
        [batch, heads, queries]: float64 if ``q`` is float64, otherwise float32, which is
        also the precision of the accumulation.

    Raises:
        ValueError: The shapes do not fit together.
    """
    check_shapes(q.shape, k.shape, v.shape)
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    scores = q.to(dtype) @ k.to(dtype).transpose(-1, -2)
    shifted = scores - scores.amax(-1, keepdim=True)
    weights = shifted.exp()
    total = weights.sum(-1)
    entropy = total.log() - (weights * shifted).sum(-1) / total
    output = (weights @ v.to(dtype)) / total.unsqueeze(-1)
    return output.to(q.dtype), entropy
