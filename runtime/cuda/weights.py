"""A transformer's tensors as the runtime reads them: packed by layer, on the device, in its precision."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from toprovar.models.infinity import Infinity
from toprovar.runtime.cuda.scaled import ScaledLinear, scaled

__all__ = ["LayerWeights", "Linear", "Weights"]


@dataclass(frozen=True)
class Linear:
    """A matrix [out, in] with its bias [out]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class LayerWeights:
    """One block; the four products that may be in fp8 are all in it or none.

    Attributes:
        gain: of the queries, fp32 [H].
        qkv: [3 C, C]; its bias has zeros for the keys.
        proj: [C, C] after self-attention.
        norm: gain and bias of the norm before cross-attention, fp32 [2, C].
        query: [C, C] of cross-attention.
        cross: [C, C] after cross-attention.
        fc1: [hidden, C].
        fc2: [C, hidden].
    """

    gain: Tensor
    qkv: Linear | ScaledLinear
    proj: Linear | ScaledLinear
    norm: Tensor
    query: Linear
    cross: Linear
    fc1: Linear | ScaledLinear
    fc2: Linear | ScaledLinear


@dataclass(frozen=True)
class Weights:
    """Everything but the image decoder.

    Attributes:
        layers: the blocks.
        modulation: their own part of the modulation, fp32 [layers, 6, C].
        text: keys and values of every layer from the text, [layers * 2 C, C].
        text_norm: fp32 [channels].
        text_in: first projection of the text.
        text_out: second projection of the text.
        pool_query: learnt query of the text pool, [1, pool heads, d].
        pool: keys and values of the text pool, [2 C, channels].
        pool_out: after the text pool.
        start: fp32 [1, 1, C] added to the pooled text.
        shared: pooled text to the shared modulation, [6 C, C].
        head_modulation: pooled text to the head's modulation, [2 C, C].
        head: [2 d, C].
        embed: codes to tokens, fp32 [C, d].
        levels: fp32 [levels, C].
    """

    layers: tuple[LayerWeights, ...]
    modulation: Tensor
    text: Linear
    text_norm: Tensor
    text_in: Linear
    text_out: Linear
    pool_query: Tensor
    pool: Linear
    pool_out: Linear
    start: Tensor
    shared: Linear
    head_modulation: Linear
    head: Linear
    embed: Linear
    levels: Tensor

    @classmethod
    def load(cls, backbone: Infinity, dtype: torch.dtype, device: torch.device, fp8: bool = False) -> Weights:
        """Copies a model's tensors to the device, one by one; what is there in `dtype` already is shared.

        A tensor is converted on the device, so that of a file mapped into memory each page is read once and kept
        nowhere on the host.

        Args:
            backbone: the model.
            dtype: of the weights.
            device: where.
            fp8: round the matrices of the blocks' large products, row by row.
        """

        def move(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, dtype, non_blocking=True)

        def exact(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, torch.float32, non_blocking=True)

        def linear(module: torch.nn.Linear) -> Linear:
            return Linear(move(module.weight), move(module.bias))

        def large(weight: Tensor, bias: Tensor) -> Linear | ScaledLinear:
            return ScaledLinear(scaled(exact(weight)), move(bias)) if fp8 else Linear(move(weight), move(bias))

        blocks = backbone.layers
        pool = backbone.text_proj_for_sos.ca
        layers = []
        for block in blocks:
            attention, cross = block.sa, block.ca
            bias = torch.cat([attention.q_bias, attention.zero_k_bias, attention.v_bias])
            layers.append(
                LayerWeights(
                    gain=exact(attention.scale_mul_1H11).clamp_max(math.log(100.0)).exp().flatten(),
                    qkv=large(attention.mat_qkv.weight, bias),
                    proj=large(attention.proj.weight, attention.proj.bias),
                    norm=exact(torch.stack([block.ca_norm.weight, block.ca_norm.bias])),
                    query=linear(cross.mat_q),
                    cross=linear(cross.proj),
                    fc1=large(block.ffn.fc1.weight, block.ffn.fc1.bias),
                    fc2=large(block.ffn.fc2.weight, block.ffn.fc2.bias),
                )
            )
        return cls(
            layers=tuple(layers),
            modulation=torch.stack([exact(block.ada_gss)[0, 0] for block in blocks]),
            text=Linear(
                torch.cat([move(block.ca.mat_kv.weight) for block in blocks]),
                torch.cat([move(part) for block in blocks for part in (block.ca.zero_k_bias, block.ca.v_bias)]),
            ),
            text_norm=exact(backbone.text_norm.weight),
            text_in=linear(backbone.text_proj_for_ca[0]),
            text_out=linear(backbone.text_proj_for_ca[2]),
            pool_query=move(pool.mat_q),
            pool=Linear(move(pool.mat_kv.weight), move(torch.cat([pool.zero_k_bias, pool.v_bias]))),
            pool_out=linear(pool.proj),
            start=exact(backbone.pos_start),
            shared=linear(backbone.shared_ada_lin[1]),
            head_modulation=linear(backbone.head_nm.ada_lin[1]),
            head=Linear(move(backbone.head.weight), exact(backbone.head.bias)),
            embed=Linear(exact(backbone.word_embed.weight), exact(backbone.word_embed.bias)),
            levels=exact(backbone.lvl_embed.weight),
        )
