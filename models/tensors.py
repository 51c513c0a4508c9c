"""What a model offers to a runtime that computes its blocks with kernels of its own: sizes, and tensors by their use.

A family whose blocks are made as `BlockTensors` says offers `PackedTransformer`; any other runs by its own modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

__all__ = [
    "BlockTensors",
    "DecoderBlock",
    "DecoderLevel",
    "DecoderTensors",
    "Group",
    "PackedDecoder",
    "PackedTransformer",
    "Pair",
    "TransformerSizes",
    "TransformerTensors",
    "count",
]


class Pair(NamedTuple):
    """A matrix [out, in], or a convolution [out, in, rows, columns], with its bias [out]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class BlockTensors:
    """A block: self-attention, attention to the text, MLP with tanh-GELU; C channels, H heads.

    Queries and keys have length 1, queries then times `gain`; attention has the scale 1 and rotary positions. The first
    and the last part read a norm without weights, which the modulation scales and shifts, and are multiplied by a gain.

    Attributes:
        gain: of the queries, fp32 [H].
        qkv: [3 C, C] for queries, keys and values.
        proj: [C, C] after self-attention.
        norm: gain and bias of the norm before the attention to the text, [C] each.
        query: [C, C] of the attention to the text.
        keys_values: [2 C, C] of the projected text.
        cross: [C, C] after the attention to the text.
        fc1: [hidden, C].
        fc2: [C, hidden].
        modulation: [6, C]: two gains, two scales, two shifts; the prompt's are added.
    """

    gain: Tensor
    qkv: Pair
    proj: Pair
    norm: Pair
    query: Pair
    keys_values: Pair
    cross: Pair
    fc1: Pair
    fc2: Pair
    modulation: Tensor


@dataclass(frozen=True)
class TransformerTensors:
    """Everything that a generation reads of a transformer; d bits a token.

    Attributes:
        blocks: in order.
        text_norm: gain of the RMS norm of the text, [channels].
        text_in: [C, channels], first projection of the text, tanh-GELU after it.
        text_out: [C, C], second projection of the text.
        pool_query: learnt query of the text pool, [1, pool heads, C / pool heads].
        pool: keys and values of the text pool, [2 C, channels].
        pool_out: [C, C] after the text pool.
        start: [1, 1, C], added to the pooled text as the first scale's input.
        shared: [6 C, C], pooled text after SiLU to the modulation of all blocks.
        head_modulation: [2 C, C], pooled text after SiLU to scale and shift before the head.
        head: [2 d, C].
        embed: [C, d], codes to tokens.
        levels: [levels, C], added to a scale's input.
    """

    blocks: tuple[BlockTensors, ...]
    text_norm: Tensor
    text_in: Pair
    text_out: Pair
    pool_query: Tensor
    pool: Pair
    pool_out: Pair
    start: Tensor
    shared: Pair
    head_modulation: Pair
    head: Pair
    embed: Pair
    levels: Tensor


class TransformerSizes(Protocol):
    """Sizes of a transformer."""

    @property
    def depth(self) -> int:
        """Number of blocks."""

    @property
    def width(self) -> int:
        """Channels of the residual stream."""

    @property
    def heads(self) -> int:
        """Heads of a block."""

    @property
    def head_dim(self) -> int:
        """Channels of a head."""

    @property
    def hidden(self) -> int:
        """Channels of the MLP."""

    @property
    def code_bits(self) -> int:
        """Bits of a token."""

    @property
    def text_max_tokens(self) -> int:
        """Text tokens at most."""


@runtime_checkable
class PackedTransformer(Protocol):
    """A transformer that can be computed from its tensors."""

    @property
    def config(self) -> TransformerSizes:
        """Its sizes."""

    def tensors(self) -> TransformerTensors:
        """Its tensors, where they are; what is packed out of several is small."""


@dataclass(frozen=True)
class Group:
    """A group norm.

    Attributes:
        weight: [C].
        bias: [C].
        groups: number of groups.
    """

    weight: Tensor
    bias: Tensor
    groups: int


@dataclass(frozen=True)
class DecoderBlock:
    """Twice norm, SiLU and 3 x 3 convolution, beside a 1 x 1 convolution where channels change."""

    norm1: Group
    conv1: Pair
    norm2: Group
    conv2: Pair
    shortcut: Pair | None


@dataclass(frozen=True)
class DecoderLevel:
    """Blocks of one size; where there is `upsample`, every pixel is repeated two by two before that convolution."""

    blocks: tuple[DecoderBlock, ...]
    upsample: Pair | None


@dataclass(frozen=True)
class DecoderTensors:
    """An image decoder, from the summed codes to pixels.

    Attributes:
        conv_in: first convolution.
        middle: blocks of the smallest size.
        levels: in the order of the computation.
        norm_out: before the last convolution, SiLU after it.
        conv_out: to three channels.
    """

    conv_in: Pair
    middle: tuple[DecoderBlock, ...]
    levels: tuple[DecoderLevel, ...]
    norm_out: Group
    conv_out: Pair


@runtime_checkable
class PackedDecoder(Protocol):
    """An image tokenizer whose decoder can be computed from its tensors."""

    def decoder_tensors(self) -> DecoderTensors:
        """The decoder's tensors, where they are."""


def count(part: Any) -> int:
    """Numbers in all tensors of one of these records."""
    return sum(tensor.numel() for tensor in _tensors(part))


def _tensors(part: Any) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, tuple):
        for one in part:
            yield from _tensors(one)
    elif is_dataclass(part):
        for one in fields(part):
            yield from _tensors(getattr(part, one.name))
