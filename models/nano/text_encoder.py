"""nano's text encoder: word embeddings and two transformer layers, trained together with the model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["WordEncoder"]

_HEAD_DIM = 32


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        split = self.qkv(self.norm1(x)).unflatten(-1, (3, -1, _HEAD_DIM))  # [B, T, 3, heads, _HEAD_DIM]
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class WordEncoder(nn.Module):
    """Word indices to features, one vector a word.

    Args:
        words: size of the vocabulary.
        width: channels of the features.
        max_words: longest text.
        layers: number of transformer layers.
    """

    def __init__(self, words: int, width: int = 128, max_words: int = 24, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.zeros(max_words, width))
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> WordEncoder:
        """Builds the encoder that a state dict belongs to."""
        words, width = shapes["embedding.weight"]
        layers = len([key for key in shapes if key.endswith(".qkv.bias")])
        return cls(words, width, shapes["position"][0], layers)

    def forward(self, token_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Word indices int64 [B, T] to features [B, T, width]; `mask` [B, T] is 0 at padding."""
        bias = None
        if mask is not None:
            bias = torch.where(mask > 0, 0.0, -1e4)[:, None, None, :]
        x = self.embedding(token_ids) + self.position[: token_ids.shape[1]]
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x)
