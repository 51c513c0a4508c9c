"""A transformer's tensors as the runtime reads them: packed by layer, on the device, in its precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toprovar.models.tensors import Pair, TransformerTensors
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
    def load(cls, model: TransformerTensors, dtype: torch.dtype, device: torch.device, fp8: bool = False) -> Weights:
        """Copies a model's tensors to the device, one by one; what is there in `dtype` already is shared.

        A tensor is converted on the device, so that of a file mapped into memory each page is read once and kept
        nowhere on the host.

        Args:
            model: its tensors.
            dtype: of the weights.
            device: where.
            fp8: round the matrices of the blocks' large products, row by row.
        """

        def move(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, dtype, non_blocking=True)

        def exact(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device, torch.float32, non_blocking=True)

        def linear(pair: Pair) -> Linear:
            return Linear(move(pair.weight), move(pair.bias))

        def large(pair: Pair) -> Linear | ScaledLinear:
            return ScaledLinear(scaled(exact(pair.weight)), move(pair.bias)) if fp8 else linear(pair)

        layers = tuple(
            LayerWeights(
                gain=exact(block.gain),
                qkv=large(block.qkv),
                proj=large(block.proj),
                norm=torch.stack([exact(block.norm.weight), exact(block.norm.bias)]),
                query=linear(block.query),
                cross=linear(block.cross),
                fc1=large(block.fc1),
                fc2=large(block.fc2),
            )
            for block in model.blocks
        )
        return cls(
            layers=layers,
            modulation=torch.stack([exact(block.modulation) for block in model.blocks]),
            text=Linear(
                torch.cat([move(block.keys_values.weight) for block in model.blocks]),
                torch.cat([move(block.keys_values.bias) for block in model.blocks]),
            ),
            text_norm=exact(model.text_norm),
            text_in=linear(model.text_in),
            text_out=linear(model.text_out),
            pool_query=move(model.pool_query),
            pool=linear(model.pool),
            pool_out=linear(model.pool_out),
            start=exact(model.start),
            shared=linear(model.shared),
            head_modulation=linear(model.head_modulation),
            head=Linear(move(model.head.weight), exact(model.head.bias)),
            embed=Linear(exact(model.embed.weight), exact(model.embed.bias)),
            levels=exact(model.levels),
        )
