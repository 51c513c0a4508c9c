"""Codes to pictures: the decoder's weights and graphs, there all the time or only while it works."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from toprovar.runtime.cuda.decoder import Decoder
from toprovar.runtime.cuda.graphs import Recorder, Replay
from toprovar.runtime.cuda.host_copy import HostCopy

__all__ = ["Decoding"]


@dataclass(frozen=True)
class _Call:
    """The decoder for codes of one shape: what it reads and writes, and how it is run."""

    summed: Tensor
    images: Tensor
    pictures: Tensor
    replay: Replay


class Decoding:
    """Decodes images one by one, so that none depends on its batch, and features of one are held at a time.

    Args:
        load: loads the decoder.
        stride: pixels a code's side.
        recorder: captures the calls; None runs them as they are.
        passing: load the decoder for every call and drop it afterwards; nothing is captured then.
    """

    def __init__(self, load: Callable[[], Decoder], stride: int, recorder: Recorder | None, passing: bool) -> None:
        self._load, self._stride, self._recorder = load, stride, recorder
        self._decoder = None if passing else load()
        self._calls: dict[tuple[int, ...], _Call] = {}

    def __call__(self, summed: Tensor) -> tuple[HostCopy, HostCopy]:
        """Summed codes fp32 [B, z, h, w] to images.

        Returns:
            fp32 [B, 3, height, width] in [-1, 1], and the same rounded down to bytes, uint8 [B, height, width, 3].
        """
        if self._decoder is None:
            images = torch.cat(list(map(self._load(), summed.split(1))))
            made = HostCopy(images), HostCopy(_bytes(images))
            if summed.is_cuda:
                torch.cuda.empty_cache()
            return made
        shape = tuple(summed.shape)
        if shape not in self._calls:
            self._calls[shape] = self._prepare(self._decoder, summed)
        call = self._calls[shape]
        call.summed.copy_(summed)
        call.replay()
        return HostCopy(call.images), HostCopy(call.pictures)

    def forget(self) -> None:
        """Drops graphs and their buffers; the weights stay."""
        self._calls.clear()

    def _prepare(self, decoder: Decoder, like: Tensor) -> _Call:
        count, _, height, width = like.shape
        summed = torch.zeros_like(like, memory_format=torch.contiguous_format)
        images = torch.zeros(count, 3, height * self._stride, width * self._stride, device=like.device)
        pictures = torch.zeros(*images.movedim(1, 3).shape, dtype=torch.uint8, device=like.device)

        def work() -> None:
            for one, out in zip(summed.split(1), images.split(1), strict=True):
                out.copy_(decoder(one))
            pictures.copy_(_bytes(images))

        return _Call(summed, images, pictures, Replay(work, self._recorder))


def _bytes(images: Tensor) -> Tensor:
    """As `Backend.decode_pictures`, to the same bytes."""
    return ((images.movedim(1, 3) + 1) * 127.5).clamp(0, 255).to(torch.uint8)
