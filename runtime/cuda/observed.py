"""What every layer of a dense step computed, kept until an observer is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toprovar.models.observer import Observer

__all__ = ["ObservedLayers"]


@dataclass(frozen=True)
class ObservedLayers:
    """Buffers that a graph may write to, since an observer cannot be called while one is replayed.

    Rows are images one after the other, each with its conditional row first.

    Attributes:
        entropy: over the logarithm of the number of keys, fp32 [layers, R, H, L].
        hidden: the stream after the layer, [layers, R, L, C].
    """

    entropy: Tensor
    hidden: Tensor

    def keep(self, layer: int, nats: Tensor, keys: int, hidden: Tensor) -> None:
        """Copies a layer's entropy in nats [R, H, L], of that many keys, and the stream after it [R, L, C]."""
        # The logarithm of a single key is 0, as is its entropy.
        torch.mul(nats, 1 / max(math.log(keys), 1e-6), out=self.entropy[layer])
        self.hidden[layer].copy_(hidden)

    def tell(self, observer: Observer, scale: int, images: int) -> None:
        """Tells of all layers at once, with conditional rows before unconditional ones, as the eager step has them."""
        observer.on_scale(scale)
        observer.on_attention(0, _conditional_first(self.entropy, images))
        observer.on_hidden(0, _conditional_first(self.hidden, images))


def _conditional_first(rows: Tensor, images: int) -> Tensor:
    # Of one image they are so already, and nothing is copied.
    return rows if images == 1 else rows.unflatten(1, (images, -1)).transpose(1, 2).flatten(1, 2)
