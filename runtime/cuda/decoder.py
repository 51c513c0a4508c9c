"""The image decoder: channels last, norms and biases folded into few passes, in strips where an image is large.

A strip is some rows of pixels with one row of halo. Norms take their statistics from the whole image, so that an
image in strips is the same image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toprovar.models.bsq_vae import BSQVAE
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
class _Map:
    """Features [B, C, h, w], to which a bias [C] is still to be added."""

    values: Tensor
    bias: Tensor | None = None


class Decoder:
    """Decodes summed codes.

    Args:
        vae: its weights.
        dtype: of weights and features.
        device: where.
        ops: how to compute norms and sums.
        rows: rows of a strip; 0 for the whole image.
    """

    def __init__(
        self, vae: BSQVAE, dtype: torch.dtype, device: torch.device, ops: PlainDecoderOps, rows: int = 0
    ) -> None:
        self._dtype, self._device, self._ops, self._rows = dtype, device, ops, rows
        decoder = vae.decoder
        self._conv_in = self._convolution(decoder.conv_in.conv)
        self._middle = [self._block(decoder.mid.block_1), self._block(decoder.mid.block_2)]
        self._levels = [
            (
                [self._block(block) for block in level.block],
                self._convolution(level.upsample.conv.conv) if hasattr(level, "upsample") else None,
            )
            for level in reversed(decoder.up)
        ]
        self._norm_out = self._group_norm(decoder.norm_out.norm)
        self._conv_out = self._convolution(decoder.conv_out.conv)

    def _convolution(self, module: nn.Conv2d) -> _Convolution:
        weight = module.weight.detach().to(self._device, self._dtype, memory_format=torch.channels_last)
        return _Convolution(weight, module.bias.detach().to(self._device, torch.float32))

    def _group_norm(self, module: nn.GroupNorm) -> _GroupNorm:
        weight, bias = (part.detach().to(self._device, torch.float32) for part in (module.weight, module.bias))
        return _GroupNorm(weight, bias, module.num_groups)

    def _block(self, module: nn.Module) -> _Block:
        shortcut = self._convolution(module.nin_shortcut.conv) if hasattr(module, "nin_shortcut") else None
        return _Block(
            self._group_norm(module.norm1.norm),
            self._convolution(module.conv1.conv),
            self._group_norm(module.norm2.norm),
            self._convolution(module.conv2.conv),
            shortcut,
        )

    def __call__(self, latent: Tensor) -> Tensor:
        """Summed codes fp32 [B, z, h, w] to images fp32 [B, 3, height, width] in [-1, 1]."""
        x = latent.to(self._dtype).contiguous(memory_format=torch.channels_last)
        features = _Map(self._strips(x, self._conv_in), self._conv_in.bias)
        for block in self._middle:
            features = self._residual(features, block)
        for blocks, upsample in self._levels:
            for block in blocks:
                features = self._residual(features, block)
            if upsample is not None:
                values = self._strips(self._plain(features), upsample, doubled=True)
                features = _Map(values, upsample.bias)
        image = self._normed(features, self._norm_out, self._conv_out)
        return (image.float() + self._conv_out.bias.view(1, -1, 1, 1)).clamp(-1, 1).contiguous()

    def _residual(self, x: _Map, block: _Block) -> _Map:
        h = _Map(self._normed(x, block.norm1, block.conv1), block.conv1.bias)
        h = _Map(self._normed(h, block.norm2, block.conv2), block.conv2.bias)
        if block.shortcut is None:
            return _Map(self._ops.add(x.values, x.bias, h.values, h.bias))
        passed = F.conv2d(self._plain(x), block.shortcut.weight)
        return _Map(self._ops.add(passed, block.shortcut.bias, h.values, h.bias))

    def _plain(self, x: _Map) -> Tensor:
        return x.values if x.bias is None else self._ops.add(x.values, x.bias, None, None)

    def _normed(self, x: _Map, norm: _GroupNorm, convolution: _Convolution) -> Tensor:
        """Norm, SiLU and convolution, its bias left out."""
        scale, shift = self._ops.statistics(x.values, x.bias, norm.weight, norm.bias, norm.groups)
        return self._strips(x.values, convolution, (scale, shift))

    def _strips(
        self,
        x: Tensor,
        convolution: _Convolution,
        affine: tuple[Tensor, Tensor] | None = None,
        doubled: bool = False,
    ) -> Tensor:
        """A 3 x 3 convolution, strip by strip.

        Args:
            x: [B, C, h, w].
            convolution: its bias is left out.
            affine: gain and shift [B, C] and SiLU before it.
            doubled: every pixel is repeated two by two before it.
        """
        factor = 2 if doubled else 1
        height, width = x.shape[2] * factor, x.shape[3] * factor
        if not self._rows or self._rows >= height:
            return F.conv2d(self._prepared(x, affine, doubled), convolution.weight, padding=1)
        out = torch.empty(
            (x.shape[0], convolution.weight.shape[0], height, width),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last,
        )
        step = -(-self._rows // factor)
        for start in range(0, x.shape[2], step):
            end = min(start + step, x.shape[2])
            first, last = max(start - 1, 0), min(end + 1, x.shape[2])
            strip = self._prepared(x[:, :, first:last], affine, doubled)
            above, below = (start - first) * factor, (last - end) * factor
            strip = F.pad(strip, (0, 0, 1 if start == 0 else 0, 1 if end == x.shape[2] else 0))
            # Of the halo a convolution reads one row, whatever the number of rows that a pixel became.
            strip = strip[:, :, max(above - 1, 0) : strip.shape[2] - max(below - 1, 0)]
            out[:, :, start * factor : end * factor] = F.conv2d(strip, convolution.weight, padding=(0, 1))
        return out

    def _prepared(self, x: Tensor, affine: tuple[Tensor, Tensor] | None, doubled: bool) -> Tensor:
        if affine is not None:
            x = self._ops.silu(x, *affine)
        return F.interpolate(x, scale_factor=2.0, mode="nearest") if doubled else x
