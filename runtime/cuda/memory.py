"""What a model needs of a GPU's memory, before it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from toprovar.errors import BackendError
from toprovar.models.tensors import DecoderTensors, TransformerTensors, count
from toprovar.runtime.cuda.slot import Shapes
from toprovar.runtime.cuda.text_buffer import TextForm

__all__ = ["DoesNotFit", "MemoryEstimate", "available_bytes", "cheaper", "estimate", "gibibytes", "require"]

#: CUDA's context, cuBLAS' workspaces, the kernels and the graphs of one generation.
_OVERHEAD = 2**30

_MATTERS = 0.005
"""A share of the whole that is worth a word."""


class DoesNotFit(BackendError):
    """A model needs more memory than the GPU has free."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part.

    Attributes:
        weights: of the transformer.
        cache: keys and values of all scales.
        activations: everything else that a generation holds.
        text: keys and values of the text, or what they are folded into.
        decoder: weights and features of the image decoder.
        encoder: weights of the text encoder.
        overhead: what CUDA and its libraries take.
    """

    weights: int
    cache: int
    activations: int
    text: int
    decoder: int
    encoder: int = 0
    overhead: int = _OVERHEAD

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(self.__dict__.values())

    def words(self) -> str:
        """The parts with their sizes, largest first, as far as they matter."""
        parts = sorted(self.__dict__.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {gibibytes(size)}" for name, size in parts if size > self.total * _MATTERS)


def gibibytes(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**30:.2f} GiB"


def estimate(
    model: TransformerTensors,
    decoder: DecoderTensors,
    shapes: Shapes,
    images: int,
    halves: int,
    item: int,
    text: int,
    encoder: int = 0,
    low_vram: bool = False,
) -> MemoryEstimate:
    """Adds up a model's parts.

    Args:
        model: the transformer's tensors, on any device.
        decoder: the image decoder's.
        shapes: of a slot.
        images: images that run together.
        halves: rows an image.
        item: bytes an element of weights, cache and activations.
        text: tokens of the longest text.
        encoder: bytes of the text encoder.
        low_vram: text encoder and image decoder are on the device one after the other, so only the larger counts.
    """
    rows = images * halves
    form = TextForm.of(text, shapes.head_dim, 1)
    columns = form.tokens * (shapes.heads if form.folded else 1)
    parts = shapes.bytes_of(rows, images, item)
    weights = count(model) * item
    if shapes.scaled:
        weights -= shapes.layers * (4 * shapes.width**2 + 2 * shapes.width * shapes.hidden) * (item - 1)
    stride = 2 ** sum(level.upsample is not None for level in decoder.levels)
    height, width = (size * stride for size in shapes.latent)
    features = int(images * height * width * _widest_level(decoder) * item) + images * height * width * 24
    decoding = count(decoder) * item + features
    if low_vram:
        decoding, encoder = (decoding, 0) if decoding >= encoder else (0, encoder)
    return MemoryEstimate(
        weights=weights,
        cache=parts["cache"],
        activations=parts["activations"],
        text=rows * columns * shapes.layers * 2 * shapes.width * item,
        decoder=decoding,
        encoder=encoder,
    )


def _widest_level(decoder: DecoderTensors) -> float:
    """Channels times pixels of what is held at a time at most, by pixel of the image.

    A block holds three features of its size; doubling the pixels, the small feature and two of the large.
    """
    share = 0.25 ** sum(level.upsample is not None for level in decoder.levels)
    widest = 0.0
    for level in decoder.levels:
        before, after = level.blocks[0].conv1.weight.shape[1], level.blocks[-1].conv2.weight.shape[0]
        widest = max(widest, (max(before, after) + 2 * after) * share)
        if level.upsample is not None:
            share *= 4
            widest = max(widest, 2.25 * after * share)
    return widest


def available_bytes(device: torch.device) -> int:
    """What the device has free, with what this process holds and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def cheaper(own: MemoryEstimate, others: Mapping[str, MemoryEstimate]) -> list[str]:
    """Names of what needs less, each with how much less, as far as it matters."""
    saved = {name: own.total - other.total for name, other in others.items()}
    return [f"{name} ({gibibytes(size)} less)" for name, size in saved.items() if size > own.total * _MATTERS]


def require(needed: MemoryEstimate, available: int, what: str, remedies: Sequence[str]) -> None:
    """Refuses what will not fit.

    Args:
        needed: the estimate.
        available: bytes.
        what: what is to be loaded.
        remedies: what would make it fit, in the order of preference.

    Raises:
        DoesNotFit: it needs more than there is.
    """
    if needed.total > available:
        raise DoesNotFit(
            f"{what} needs {gibibytes(needed.total)} ({needed.words()}); the GPU has {gibibytes(available)} free",
            f"free the GPU, or try {', '.join(remedies[:-1])}{' or ' if remedies[1:] else ''}{remedies[-1]}",
        )
