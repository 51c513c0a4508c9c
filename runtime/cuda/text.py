"""What a prompt gives to every scale: start, modulation, and the text's keys and values, once an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from toprovar.runtime.cuda.slot import Slot, TextBuffer
from toprovar.runtime.cuda.weights import Linear, Weights

__all__ = ["prepare"]


def prepare(
    weights: Weights, slot: Slot, buffer: TextBuffer, features: Tensor, lengths: list[int], multiple: int
) -> None:
    """Fills a slot's start, modulation and text.

    Args:
        weights: the model's.
        slot: where to write.
        buffer: the slot's buffer for the text, long enough.
        features: [R, T, channels], the rows of an image side by side.
        lengths: tokens of every row.
        multiple: an image's text is padded to a multiple of this many tokens, whatever the batch.
    """
    buffer.lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
    lowest = torch.finfo(slot.dtype).min
    places = torch.arange(buffer.tensor.shape[1], device=slot.device)
    buffer.bias.copy_(torch.where(places < buffer.lengths.view(-1, 1, 1, 1), 0.0, lowest))
    for image in range(slot.images):
        rows = slice(image * slot.halves, (image + 1) * slot.halves)
        longest = max(lengths[rows])
        padded = min(-(-longest // multiple) * multiple, buffer.tensor.shape[1])
        own = features[rows, :longest]
        own = F.pad(own, (0, 0, 0, padded - longest))
        bias = buffer.bias[rows, :, :, :padded]
        _prepare_image(weights, slot, rows, own, bias, buffer.tensor[rows, :padded])


def _prepare_image(weights: Weights, slot: Slot, rows: slice, features: Tensor, bias: Tensor, text_out: Tensor) -> None:
    dtype = slot.dtype
    text = features.float()
    text = (text * torch.rsqrt(text.square().mean(-1, keepdim=True) + 1e-6) * weights.text_norm).to(dtype)
    pooled = _pool(weights, text, bias)
    activated = F.silu(pooled)
    slot.start[rows] = pooled.float().unsqueeze(1) + weights.start
    shared = _linear(activated, weights.shared).float().unflatten(1, (6, -1))
    torch.add(weights.modulation.unsqueeze(1), shared, out=slot.modulation[:, rows])
    slot.head_modulation[rows] = _linear(activated, weights.head_modulation).float().unflatten(1, (2, -1))
    text = _linear(F.gelu(_linear(text, weights.text_in), approximate="tanh"), weights.text_out)
    text_out.copy_(_linear(text, weights.text).view(text_out.shape))


def _pool(weights: Weights, text: Tensor, bias: Tensor) -> Tensor:
    """Attention of learnt queries to the text, [rows, C]."""
    heads = weights.pool_query.shape[1]
    key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in _linear(text, weights.pool).chunk(2, dim=-1)
    )
    query = weights.pool_query.unsqueeze(2).expand(text.shape[0], -1, -1, -1)
    pooled = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return _linear(pooled.transpose(1, 2).flatten(2), weights.pool_out).squeeze(1)


def _linear(x: Tensor, layer: Linear) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)
