"""The image decoder: channels last, norms and biases folded into few passes, in strips where an image is large.

A convolution after every pixel was repeated two by two reads only 2 x 2 different pixels for each of the four places of
a pixel: it is done as one convolution of 2 x 2 to four times the channels, with sums of the weights.

A strip is some rows of pixels with one row of halo. Norms take their statistics from the whole image, so that an
image in strips is the same image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from toprovar.models.tensors import DecoderBlock, DecoderTensors, Group, Pair
from toprovar.runtime.cuda.decoder_ops import PlainDecoderOps

__all__ = ["Decoder"]


@dataclass(frozen=True)
class _Convolution:
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class _GroupNorm:
    weight: Tensor
    bias: Tensor
    groups: int


@dataclass(frozen=True)
class _Block:
    norm1: _GroupNorm
    conv1: _Convolution
    norm2: _GroupNorm
    conv2: _Convolution
    shortcut: _Convolution | None


@dataclass(frozen=True)
class _Features:
    """Features [B, C, h, w], and their moments for the norm that reads them."""

    values: Tensor
    moments: Tensor


class Decoder:
    """Decodes summed codes.

    Args:
        model: its tensors.
        dtype: of weights and features.
        device: where.
        ops: how to compute norms and sums.
        rows: rows of a strip; 0 for the whole image.
    """

    def __init__(
        self, model: DecoderTensors, dtype: torch.dtype, device: torch.device, ops: PlainDecoderOps, rows: int = 0
    ) -> None:
        self._dtype, self._device, self._ops, self._rows = dtype, device, ops, rows
        self._conv_in = self._convolution(model.conv_in)
        self._middle = [self._block(block) for block in model.middle]
        self._levels = [
            (
                [self._block(block) for block in level.blocks],
                self._doubling(level.upsample) if level.upsample is not None else None,
            )
            for level in model.levels
        ]
        self._norm_out = self._group_norm(model.norm_out)
        self._conv_out = self._convolution(model.conv_out)

    def _convolution(self, pair: Pair) -> _Convolution:
        weight = pair.weight.detach().to(self._device, self._dtype, memory_format=torch.channels_last)
        return _Convolution(weight, pair.bias.detach().to(self._device, torch.float32))

    def _doubling(self, pair: Pair) -> _Convolution:
        """The convolution [4 C, C, 2, 2] that gives the four places of a pixel."""
        weight = pair.weight.detach().to(self._device, torch.float32)
        places = [_reads(_reads(weight, 2, row), 3, column) for row in (0, 1) for column in (0, 1)]
        return self._convolution(Pair(torch.cat(places), pair.bias))

    def _group_norm(self, norm: Group) -> _GroupNorm:
        weight, bias = (part.detach().to(self._device, torch.float32) for part in (norm.weight, norm.bias))
        return _GroupNorm(weight, bias, norm.groups)

    def _block(self, block: DecoderBlock) -> _Block:
        return _Block(
            self._group_norm(block.norm1),
            self._convolution(block.conv1),
            self._group_norm(block.norm2),
            self._convolution(block.conv2),
            self._convolution(block.shortcut) if block.shortcut is not None else None,
        )

    def __call__(self, latent: Tensor) -> Tensor:
        """Summed codes fp32 [B, z, h, w] to images fp32 [B, 3, height, width] in [-1, 1]."""
        x = latent.to(self._dtype).contiguous(memory_format=torch.channels_last)
        x = self._strips(x, self._conv_in) + self._conv_in.bias.to(self._dtype).view(1, -1, 1, 1)
        features = _Features(x, self._ops.moments(x, None, self._middle[0].norm1.groups))
        for block in self._middle:
            features = self._residual(features, block)
        for blocks, upsample in self._levels:
            for block in blocks:
                features = self._residual(features, block)
            if upsample is not None:
                features = self._doubled(features.values, upsample, blocks[-1].norm2.groups)
        affine = self._ops.affine(features.moments, None, self._norm_out.weight, self._norm_out.bias)
        image = self._strips(features.values, self._conv_out, affine)
        return (image.float() + self._conv_out.bias.view(1, -1, 1, 1)).clamp(-1, 1).contiguous()

    def _residual(self, x: _Features, block: _Block) -> _Features:
        ops, norm1, norm2 = self._ops, block.norm1, block.norm2
        passed, bias = x.values, None
        if block.shortcut is not None:
            # First, so that the features' memory may serve what is made of them.
            passed, bias = F.conv2d(x.values, block.shortcut.weight), block.shortcut.bias
        affine = ops.affine(x.moments, None, norm1.weight, norm1.bias)
        h = self._strips(x.values, block.conv1, affine, last=block.shortcut is not None)
        moments = ops.moments(h, block.conv1.bias, norm2.groups)
        h = self._strips(h, block.conv2, ops.affine(moments, block.conv1.bias, norm2.weight, norm2.bias), last=True)
        return _Features(*ops.add(passed, bias, h, block.conv2.bias, norm2.groups))

    def _strips(
        self, x: Tensor, convolution: _Convolution, affine: tuple[Tensor, Tensor] | None = None, last: bool = False
    ) -> Tensor:
        """A 3 x 3 convolution, its bias left out, strip by strip.

        Args:
            x: [B, C, h, w].
            convolution: weights.
            affine: gain and shift [B, C] and SiLU before it.
            last: nobody reads `x` any more.
        """
        height, width = x.shape[2:]
        if self._whole(height):
            return F.conv2d(self._prepared(x, affine, last), convolution.weight, padding=1)
        out = self._empty(x, len(convolution.weight), height, width)
        for start in range(0, height, self._rows):
            end = min(start + self._rows, height)
            first, beyond = max(start - 1, 0), min(end + 1, height)
            strip = self._prepared(x[:, :, first:beyond], affine, False)
            strip = F.pad(strip, (0, 0, 1 if start == 0 else 0, 1 if end == height else 0))
            out[:, :, start:end] = F.conv2d(strip, convolution.weight, padding=(0, 1))
        return out

    def _doubled(self, x: Tensor, upsample: _Convolution, groups: int) -> _Features:
        """Twice the height and width."""
        height, width = x.shape[2:]
        if self._whole(2 * height):
            return _Features(*self._ops.interleave(F.conv2d(x, upsample.weight, padding=1), upsample.bias, groups))
        out = self._empty(x, len(upsample.bias), 2 * height, 2 * width)
        step = -(-self._rows // 2)
        for start in range(0, height, step):
            end = min(start + step, height)
            first, beyond = max(start - 1, 0), min(end + 1, height)
            strip, _ = self._ops.interleave(
                F.conv2d(x[:, :, first:beyond], upsample.weight, padding=1), upsample.bias, 0
            )
            out[:, :, 2 * start : 2 * end] = strip[:, :, 2 * (start - first) : 2 * (end - first)]
        return _Features(out, self._ops.moments(out, None, groups))

    def _whole(self, height: int) -> bool:
        return not self._rows or self._rows >= height

    def _prepared(self, x: Tensor, affine: tuple[Tensor, Tensor] | None, last: bool) -> Tensor:
        return x if affine is None else self._ops.silu(x, *affine, inplace=last)

    @staticmethod
    def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
        return torch.empty(
            (like.shape[0], channels, height, width),
            dtype=like.dtype,
            device=like.device,
            memory_format=torch.channels_last,
        )


def _reads(weight: Tensor, axis: int, place: int) -> Tensor:
    """Weights of three doubled pixels as those of the two pixels that they are, seen from the first or second place."""
    before, own, after = weight.unbind(axis)
    return torch.stack([before, own + after] if place == 0 else [before + own, after], axis)
