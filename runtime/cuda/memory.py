"""What a model needs of a GPU's memory, before it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from toprovar.errors import BackendError
from toprovar.models.bsq_vae import BSQVAE
from toprovar.models.infinity import Infinity
from toprovar.runtime.cuda.slot import Shapes

__all__ = ["MemoryEstimate", "available_bytes", "estimate", "require"]

_GIB = 2**30
#: CUDA's context, cuBLAS' workspaces, the kernels and the graphs of one generation.
_OVERHEAD = 1 * _GIB


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by part.

    Attributes:
        weights: of the transformer.
        cache: keys and values of all scales.
        activations: everything else that a generation holds.
        text: keys and values of the text.
        decoder: weights and features of the image decoder.
        overhead: what CUDA and its libraries take.
    """

    weights: int
    cache: int
    activations: int
    text: int
    decoder: int
    overhead: int = _OVERHEAD

    @property
    def total(self) -> int:
        """All parts together."""
        return self.weights + self.cache + self.activations + self.text + self.decoder + self.overhead

    def words(self) -> str:
        """The parts with their sizes, largest first."""
        parts = sorted(self.__dict__.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {size / _GIB:.2f} GiB" for name, size in parts)


def estimate(
    backbone: Infinity, vae: BSQVAE, shapes: Shapes, images: int, halves: int, item: int, text: int
) -> MemoryEstimate:
    """Adds up a model's parts.

    Args:
        backbone: the transformer, on any device.
        vae: the image tokenizer; its decoder counts.
        shapes: of a slot.
        images: images that run together.
        halves: rows an image.
        item: bytes an element of weights, cache and activations.
        text: tokens of the longest text.
    """
    rows = images * halves
    parts = shapes.bytes_of(rows, images, item)
    weights = sum(parameter.numel() for parameter in backbone.parameters()) * item
    if shapes.scaled:
        weights -= shapes.layers * (4 * shapes.width**2 + 2 * shapes.width * shapes.hidden) * (item - 1)
    height, width = (size * vae.config.stride for size in shapes.latent)
    widest = _widest_level(vae.config.decoder_channels, vae.config.downsamples)
    decoder = sum(parameter.numel() for parameter in vae.decoder.parameters()) * item
    return MemoryEstimate(
        weights=weights,
        cache=parts["cache"],
        activations=parts["activations"],
        text=rows * text * shapes.layers * 2 * shapes.width * item,
        decoder=decoder + int(images * height * width * widest * item) + images * height * width * 24,
    )


def _widest_level(channels: Sequence[int], downsamples: int) -> float:
    """Channels times pixels of the level that holds most, three features of its size, by pixel of the image."""
    levels = []
    for level, width in enumerate(channels):
        above = channels[min(level + 1, len(channels) - 1)]
        levels.append((max(width, above) + 2 * width) / 4 ** min(level, downsamples))
    return max(levels)


def available_bytes(device: torch.device) -> int:
    """What the device has free, with what this process holds and does not use."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def require(needed: MemoryEstimate, available: int, what: str) -> None:
    """Refuses what will not fit.

    Args:
        needed: the estimate.
        available: bytes.
        what: what is to be loaded.

    Raises:
        BackendError: it needs more than there is.
    """
    if needed.total > available:
        found = f"the GPU has {available / _GIB:.1f} GiB free"
        raise BackendError(
            f"{what} needs {needed.total / _GIB:.1f} GiB ({needed.words()}); {found}",
            "free the GPU, run fewer images at a time, or compile for a lower resolution",
        )
