"""Infinity's transformer under the official keys (FoundationVision/Infinity, MIT licence).

A scale is one forward pass over its tokens: the sum of the codes so far, embedded, goes through blocks of
self-attention over this and all earlier scales, cross-attention to the text and an MLP; the head gives two
logits a bit. Rows are batch entries: with guidance, the conditional rows first, then the unconditional.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toprovar.models.backbone import Attend, Condition
from toprovar.models.tensors import BlockTensors, Pair, TransformerTensors

__all__ = ["Infinity", "InfinityConfig"]


@dataclass(frozen=True)
class InfinityConfig:
    """Architecture of a transformer, as its tensors show it."""

    depth: int
    chunks: int
    width: int
    heads: int
    hidden: int
    code_bits: int
    text_channels: int
    text_max_tokens: int
    pool_heads: int
    levels: int

    @property
    def head_dim(self) -> int:
        """Channels of a head."""
        return self.width // self.heads

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> InfinityConfig:
        """Reads the architecture off the shapes of a state dict.

        Raises:
            KeyError: a tensor that every Infinity has is missing.
        """
        found = [re.match(r"(?:block_chunks\.(\d+)\.module|blocks)\.(\d+)\.ada_gss$", key) for key in shapes]
        blocks = [match for match in found if match]
        first = "blocks.0" if any(match[1] is None for match in blocks) else "block_chunks.0.module.0"
        return cls(
            depth=len(blocks),
            chunks=len({match[1] for match in blocks}),
            width=shapes["pos_start"][-1],
            heads=math.prod(shapes[f"{first}.sa.scale_mul_1H11"]),
            hidden=shapes[f"{first}.ffn.fc1.weight"][0],
            code_bits=shapes["word_embed.weight"][1],
            text_channels=shapes["text_norm.weight"][0],
            text_max_tokens=shapes["cfg_uncond"][0],
            pool_heads=shapes["text_proj_for_sos.ca.mat_q"][1],
            levels=shapes["lvl_embed.weight"][0],
        )


def _pair(module: nn.Module) -> Pair:
    return Pair(module.weight, module.bias)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2).contiguous()


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotates neighbouring channel pairs of [R, H, L, D] by ``rope`` [2, ..., L, D / 2]."""
    pairs = x.unflatten(-1, (-1, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    cosine, sine = rope[0], rope[1]
    return torch.stack([cosine * even - sine * odd, sine * even + cosine * odd], dim=-1).flatten(-2)


def _modulate(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class _RMSNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class _SelfAttention(nn.Module):
    zero_k_bias: Tensor

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Tensor, layer: int, attend: Attend) -> Tensor:
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        query, key, value = (
            _split_heads(part, self.heads) for part in F.linear(x, self.mat_qkv.weight, bias).chunk(3, dim=-1)
        )
        gain = self.scale_mul_1H11.clamp_max(math.log(100.0)).exp()
        query = _rotate(F.normalize(query, dim=-1, eps=1e-12) * gain, rope)
        key = _rotate(F.normalize(key, dim=-1, eps=1e-12), rope)
        return self.proj(_merge_heads(attend(layer, query, key, value)))


class _CrossAttention(nn.Module):
    """Attention to the text; as a pool, its query is learnt instead of computed."""

    zero_k_bias: Tensor

    def __init__(self, width: int, text_width: int, heads: int, pool: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.mat_q = nn.Parameter(torch.zeros(1, heads, width // heads)) if pool else nn.Linear(width, width)
        self.mat_kv = nn.Linear(text_width, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def keys_values_pair(self) -> Pair:
        return Pair(self.mat_kv.weight, torch.cat([self.zero_k_bias, self.v_bias]))

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        both = F.linear(text, *self.keys_values_pair())
        key, value = both.chunk(2, dim=-1)
        return _split_heads(key, self.heads), _split_heads(value, self.heads)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
        query = _split_heads(self.mat_q(x), self.heads)
        return self.proj(_merge_heads(F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)))

    def pool(self, text: Tensor, bias: Tensor) -> Tensor:
        keys, values = self.keys_values(text)
        query = self.mat_q.unsqueeze(2).expand(text.shape[0], -1, -1, -1)
        pooled = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        return self.proj(_merge_heads(pooled)).squeeze(1)


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _Block(nn.Module):
    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        width = config.width
        self.sa = _SelfAttention(width, config.heads)
        self.ca = _CrossAttention(width, width, config.heads)
        self.ffn = _MLP(width, config.hidden)
        self.ca_norm = nn.LayerNorm(width, eps=1e-6)
        self.ada_gss = nn.Parameter(nn.init.normal_(torch.empty(1, 1, 6, width), std=width**-0.5))

    def tensors(self) -> BlockTensors:
        """As a runtime reads them; the gain in fp32, whatever the weights are in."""
        own, cross = self.sa, self.ca
        return BlockTensors(
            gain=own.scale_mul_1H11.float().clamp_max(math.log(100.0)).exp().flatten(),
            qkv=Pair(own.mat_qkv.weight, torch.cat([own.q_bias, own.zero_k_bias, own.v_bias])),
            proj=_pair(own.proj),
            norm=_pair(self.ca_norm),
            query=_pair(cross.mat_q),
            keys_values=cross.keys_values_pair(),
            cross=_pair(cross.proj),
            fc1=_pair(self.ffn.fc1),
            fc2=_pair(self.ffn.fc2),
            modulation=self.ada_gss[0, 0],
        )

    def forward(self, x: Tensor, layer: int, condition: Condition, rope: Tensor, attend: Attend) -> Tensor:
        modulation = self.ada_gss + condition.modulation.unsqueeze(1)
        gain1, gain2, scale1, scale2, shift1, shift2 = modulation.unbind(2)
        x = x + gain1 * self.sa(_modulate(x, scale1, shift1), rope, layer, attend)
        text = condition.text_keys[layer], condition.text_values[layer], condition.text_bias
        x = x + self.ca(self.ca_norm(x), *text)
        return x + gain2 * self.ffn(_modulate(x, scale2, shift2))


class _Chunk(nn.Module):
    def __init__(self, blocks: list[_Block]) -> None:
        super().__init__()
        self.module = nn.ModuleList(blocks)


class _TextPool(nn.Module):
    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        self.ca = _CrossAttention(config.width, config.text_channels, config.pool_heads, pool=True)


class _HeadNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))


class Infinity(nn.Module):
    """The transformer; `toprovar.models.step` runs it scale by scale."""

    def __init__(self, config: InfinityConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cfg_uncond = nn.Parameter(torch.zeros(config.text_max_tokens, config.text_channels))
        self.pos_start = nn.Parameter(torch.zeros(1, 1, width))
        self.text_norm = _RMSNorm(config.text_channels)
        self.text_proj_for_sos = _TextPool(config)
        self.text_proj_for_ca = nn.Sequential(
            nn.Linear(config.text_channels, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.lvl_embed = nn.Embedding(config.levels, width)
        self.word_embed = nn.Linear(config.code_bits, width)
        self.shared_ada_lin = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        blocks = [_Block(config) for _ in range(config.depth)]
        if config.chunks > 1 or config.depth == 1:
            size = config.depth // config.chunks
            self.block_chunks = nn.ModuleList(
                _Chunk(blocks[start : start + size]) for start in range(0, config.depth, size)
            )
        else:
            self.blocks = nn.ModuleList(blocks)
        self.head_nm = _HeadNorm(width)
        self.head = nn.Linear(width, 2 * config.code_bits)

    @property
    def layers(self) -> list[_Block]:
        """The blocks in order, whatever the chunks that the file keeps them in."""
        if hasattr(self, "blocks"):
            return list(self.blocks)
        return [block for chunk in self.block_chunks for block in chunk.module]

    @torch.no_grad()
    def tensors(self) -> TransformerTensors:
        """As a runtime with kernels of its own reads them (`toprovar.models.tensors`)."""
        pool = self.text_proj_for_sos.ca
        return TransformerTensors(
            blocks=tuple(block.tensors() for block in self.layers),
            text_norm=self.text_norm.weight,
            text_in=_pair(self.text_proj_for_ca[0]),
            text_out=_pair(self.text_proj_for_ca[2]),
            pool_query=pool.mat_q,
            pool=pool.keys_values_pair(),
            pool_out=_pair(pool.proj),
            start=self.pos_start,
            shared=_pair(self.shared_ada_lin[1]),
            head_modulation=_pair(self.head_nm.ada_lin[1]),
            head=_pair(self.head),
            embed=_pair(self.word_embed),
            levels=self.lvl_embed.weight,
        )

    def encode_condition(self, features: Tensor, mask: Tensor) -> Condition:
        """Prepares a prompt's text once for all scales.

        Args:
            features: [R, T, text_channels] output of the text encoder, or rows of `cfg_uncond`.
            mask: [R, T], 1 for a token and 0 for padding.
        """
        width = self.config.width
        bias = torch.where(mask > 0, 0.0, torch.finfo(features.dtype).min).to(features.dtype)[:, None, None, :]
        text = self.text_norm(features)
        pooled = self.text_proj_for_sos.ca.pool(text, bias)
        text = self.text_proj_for_ca(text)
        pairs = [block.ca.keys_values(text) for block in self.layers]
        return Condition(
            start=pooled.unsqueeze(1) + self.pos_start,
            modulation=self.shared_ada_lin(pooled).view(-1, 6, width),
            head_modulation=self.head_nm.ada_lin(pooled).view(-1, 2, width),
            text_keys=[key for key, _ in pairs],
            text_values=[value for _, value in pairs],
            text_bias=bias,
        )

    def embed_scale(self, x: Tensor, scale: Tensor) -> Tensor:
        """Adds the level embedding of scale index `scale` (int64, no axes) to [R, L, C]."""
        return x + self.lvl_embed(scale)

    def block(self, layer: int, x: Tensor, condition: Condition, rope: Tensor, attend: Attend) -> Tensor:
        """One block over [R, K, C]; `rope` is [2, ..., K, head_dim / 2], its middle axes broadcast over heads."""
        return self.layers[layer](x, layer, condition, rope, attend)

    def logits(self, x: Tensor, condition: Condition) -> Tensor:
        """[R, L, C] to logits of 0 and 1 for every bit, [R, L, bits, 2]."""
        scale, shift = condition.head_modulation.unsqueeze(1).unbind(2)
        return self.head(_modulate(x, scale, shift)).unflatten(-1, (-1, 2))

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Summed codes resized to the next scale, [B, L, bits], to its input [B, L, C]."""
        return self.word_embed(codes)
