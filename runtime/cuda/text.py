"""What a prompt gives to every scale: start, modulation, and the text as attention reads it, once an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from toprovar.runtime.cuda.ops import PlainOps
from toprovar.runtime.cuda.slot import Slot
from toprovar.runtime.cuda.text_buffer import FoldedText, TextForm
from toprovar.runtime.cuda.weights import Linear, Weights

__all__ = ["TextProgram"]


class TextProgram:
    """Prepares the text of a slot's images.

    Args:
        weights: the model's.
        slot: where to write.
        forms: of every image.
        ops: how to compute.

    """

    def __init__(self, weights: Weights, slot: Slot, forms: tuple[TextForm, ...], ops: PlainOps) -> None:
        self._weights, self._slot, self._forms, self._ops = weights, slot, forms, ops
        rows, tokens = slot.images * slot.halves, max(form.tokens for form in forms)
        channels = len(weights.text_norm)
        # One buffer, and one copy: the features of all rows, then the rows' lengths.
        self._given = slot.make((rows * tokens * channels + rows,), torch.float32)
        self._host = torch.zeros(self._given.shape, pin_memory=self._given.is_cuda)
        self._features = self._given[:-rows].view(rows, tokens, channels)
        self._lengths = self._given[-rows:]
        self._copied: torch.cuda.Event | None = None

    def feed(self, texts: Sequence[np.ndarray]) -> None:
        """Queues the copy of what the next run reads.

        Args:
            texts: features of every row, fp32 [tokens, channels], the rows of an image side by side.
        """
        if self._copied is not None:
            self._copied.synchronize()  # of the copy before, which reads the same memory
        rows, tokens, channels = self._features.shape
        host = self._host[:-rows].view(rows, tokens, channels).numpy()
        for own, text in zip(host, texts, strict=True):
            own[: len(text)], own[len(text) :] = text, 0
        self._host[-rows:].numpy()[:] = list(map(len, texts))
        self._given.copy_(self._host, non_blocking=True)
        if self._given.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def run(self) -> None:
        """Writes the slot's start, modulation and text."""
        halves = self._slot.halves
        for image, form in enumerate(self._forms):
            self._prepare(slice(image * halves, (image + 1) * halves), form)

    def _prepare(self, rows: slice, form: TextForm) -> None:
        weights, slot = self._weights, self._slot
        text = self._features[rows, : form.tokens]
        text = text * torch.rsqrt(text.square().mean(-1, keepdim=True) + 1e-6) * weights.text_norm
        text = text.to(slot.dtype)
        places = torch.arange(form.tokens, device=slot.device)
        known = places < self._lengths[rows].view(-1, 1, 1, 1)
        bias = torch.zeros(known.shape, dtype=slot.dtype, device=slot.device)
        bias = bias.masked_fill(~known, torch.finfo(slot.dtype).min)
        pooled = _pool(weights, text, bias)
        activated = F.silu(pooled)
        slot.start[rows] = pooled.float().unsqueeze(1) + weights.start
        shared = _linear(activated, weights.shared).float().unflatten(1, (6, -1))
        torch.add(weights.modulation.unsqueeze(1), shared, out=slot.modulation[:, rows])
        slot.head_modulation[rows] = _linear(activated, weights.head_modulation).float().unflatten(1, (2, -1))
        text = _linear(F.gelu(_linear(text, weights.text_in), approximate="tanh"), weights.text_out)
        shapes = slot.shapes
        both = _linear(text, weights.text).view(*text.shape[:2], shapes.layers, 2, shapes.heads, shapes.head_dim)
        buffer = slot.text(form)
        if isinstance(buffer, FoldedText):
            self._fold(both, known, buffer.rows(rows))
            return
        kept = buffer.rows(rows)
        kept.keys.copy_(both[:, :, :, 0])
        kept.values.copy_(both[:, :, :, 1])
        kept.lengths.copy_(self._lengths[rows])
        kept.bias.copy_(bias)

    def _fold(self, both: Tensor, known: Tensor, out: FoldedText) -> None:
        """Keys and values [R, T, layers, 2, H, D] into the products; `known` [R, 1, 1, T] are no padding."""
        layers, heads, dim = both.shape[2], *both.shape[4:]
        biases = torch.stack([layer.query.bias for layer in self._weights.layers]).view(layers, heads, dim)
        added = (both[:, :, :, 0].float() * biases.float()).sum(-1).permute(0, 2, 3, 1) * dim**-0.5
        out.bias.copy_(added.masked_fill(~known, float("-inf")))
        blocks = self._weights.layers
        query = [block.query.weight.view(heads, dim, -1) for block in blocks]
        cross = [block.cross.weight.view(-1, heads, dim).permute(1, 2, 0) for block in blocks]
        keys, values = (part.unflatten(2, (heads, -1)) for part in (out.keys, out.values))
        self._ops.fold(both[:, :, :, 0], query, None, keys)
        # The weights of a head's tokens sum to 1, so that every head may bring its share of the bias.
        self._ops.fold(both[:, :, :, 1], cross, [block.cross.bias for block in blocks], values)


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
