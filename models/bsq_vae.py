"""Infinity's visual tokenizer: a convolutional autoencoder with binary spherical quantisation.

Keys and arithmetic are the official ones (FoundationVision/Infinity, ``bsq_vae``). Images are
[B, 3, H, W] in [-1, 1]; latents [B, bits, H / stride, W / stride].
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toprovar.models.schedules import Schedule
from toprovar.models.tensors import DecoderBlock, DecoderLevel, DecoderTensors, Group, Pair

__all__ = ["BSQVAE", "MultiScaleCodes", "VAEConfig", "codes_from_bits", "multiscale_quantize"]


@dataclass(frozen=True)
class VAEConfig:
    """Architecture of a tokenizer, as its tensors show it."""

    bits: int
    encoder_channels: tuple[int, ...]
    decoder_channels: tuple[int, ...]
    blocks: int
    downsamples: int

    @property
    def stride(self) -> int:
        """Pixels a code."""
        return 2**self.downsamples

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> VAEConfig:
        """Reads the architecture off the shapes of a state dict.

        Raises:
            KeyError: a tensor that every tokenizer has is missing.
        """

        def channels(part: str) -> tuple[int, ...]:
            levels = {int(m[1]) for key in shapes if (m := re.match(rf"{part}\.(\d+)\.block\.0\.", key))}
            return tuple(shapes[f"{part}.{level}.block.0.conv2.conv.weight"][0] for level in sorted(levels))

        return cls(
            bits=shapes["decoder.conv_in.conv.weight"][1],
            encoder_channels=channels("encoder.down"),
            decoder_channels=channels("decoder.up"),
            blocks=sum(
                re.fullmatch(r"encoder\.down\.0\.block\.\d+\.norm1\.norm\.bias", key) is not None for key in shapes
            ),
            downsamples=len([key for key in shapes if key.endswith(".downsample.conv.conv.bias")]),
        )


class _Conv(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding)

    def tensors(self) -> Pair:
        return Pair(self.conv.weight, self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class _Norm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32 if channels % 32 == 0 else 24, channels, eps=1e-6)

    def tensors(self) -> Group:
        return Group(self.norm.weight, self.norm.bias, self.norm.num_groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x)


class _ResidualBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = _Norm(channels_in)
        self.conv1 = _Conv(channels_in, channels_out, 3)
        self.norm2 = _Norm(channels_out)
        self.conv2 = _Conv(channels_out, channels_out, 3)
        if channels_in != channels_out:
            self.nin_shortcut = _Conv(channels_in, channels_out, 1)

    def tensors(self) -> DecoderBlock:
        shortcut = self.nin_shortcut.tensors() if hasattr(self, "nin_shortcut") else None
        return DecoderBlock(
            self.norm1.tensors(), self.conv1.tensors(), self.norm2.tensors(), self.conv2.tensors(), shortcut
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class _Downsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _Conv(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _Conv(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class _Level(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            _ResidualBlock(channels_in if i == 0 else channels_out, channels_out) for i in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x


class _Middle(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = _ResidualBlock(channels, channels)
        self.block_2 = _ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.block_1(x))


class _Encoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.encoder_channels
        self.conv_in = _Conv(3, widths[0], 3)
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            stage = _Level(widths[max(level - 1, 0)], width, config.blocks)
            if level < config.downsamples:
                stage.downsample = _Downsample(width)
            self.down.append(stage)
        self.mid = _Middle(widths[-1])
        self.norm_out = _Norm(widths[-1])
        self.conv_out = _Conv(widths[-1], config.bits, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv_in(image)
        for stage in self.down:
            x = stage(x)
            if hasattr(stage, "downsample"):
                x = stage.downsample(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class _Decoder(nn.Module):
    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.decoder_channels
        self.conv_in = _Conv(config.bits, widths[-1], 3)
        self.mid = _Middle(widths[-1])
        self.up = nn.ModuleList()
        for level, width in enumerate(widths):
            stage = _Level(widths[min(level + 1, len(widths) - 1)], width, config.blocks + 1)
            if 1 <= level <= config.downsamples:
                stage.upsample = _Upsample(width)
            self.up.append(stage)
        self.norm_out = _Norm(widths[0])
        self.conv_out = _Conv(widths[0], 3, 3)

    def tensors(self) -> DecoderTensors:
        levels = [
            DecoderLevel(
                tuple(block.tensors() for block in stage.block),
                stage.upsample.conv.tensors() if hasattr(stage, "upsample") else None,
            )
            for stage in reversed(self.up)
        ]
        middle = self.mid.block_1.tensors(), self.mid.block_2.tensors()
        return DecoderTensors(
            self.conv_in.tensors(), middle, tuple(levels), self.norm_out.tensors(), self.conv_out.tensors()
        )

    def forward(self, latent: Tensor) -> Tensor:
        x = self.mid(self.conv_in(latent))
        for stage in reversed(self.up):
            x = stage(x)
            if hasattr(stage, "upsample"):
                x = stage.upsample(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class _LookupFree(nn.Module):
    """Holds the bit weights of the official state dict; the arithmetic needs only signs."""

    mask: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([2**bit for bit in reversed(range(bits))]))


class _Quantizer(nn.Module):
    def __init__(self, bits: int) -> None:
        super().__init__()
        self.lfq = _LookupFree(bits)


class BSQVAE(nn.Module):
    """Encoder, decoder and quantiser under the official keys."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quantizer = _Quantizer(config.bits)
        self.quantize = self.quantizer  # the official files list its buffer under both names

    def encode(self, image: Tensor) -> Tensor:
        """Image [B, 3, H, W] in [-1, 1] to the unquantised latent [B, bits, H / stride, W / stride]."""
        return self.encoder(image)

    def decode(self, latent: Tensor) -> Tensor:
        """Summed codes [B, bits, h, w] to an image [B, 3, h * stride, w * stride], clamped to [-1, 1]."""
        return self.decoder(latent).clamp(-1, 1)

    def decoder_tensors(self) -> DecoderTensors:
        """As a runtime with kernels of its own reads them (`toprovar.models.tensors`)."""
        return self.decoder.tensors()


def codes_from_bits(bits: Tensor) -> Tensor:
    """Bits 0 or 1 on the last axis to codes of unit length, plus or minus 1 / sqrt(number of bits)."""
    return (bits.to(torch.float32) * 2 - 1) * bits.shape[-1] ** -0.5


@dataclass(frozen=True)
class MultiScaleCodes:
    """A latent as residual bits.

    Attributes:
        bits: per scale uint8 [B, h, w, bits], what a transformer is to predict.
        inputs: per scale from the second on float [B, bits, h, w], what it is shown.
        summed: float [B, bits, H, W], the quantised latent.
    """

    bits: list[Tensor]
    inputs: list[Tensor]
    summed: Tensor


def multiscale_quantize(
    latent: Tensor, grids: Schedule, flip_probability: Tensor | None = None, generator: torch.Generator | None = None
) -> MultiScaleCodes:
    """Residual quantisation of a latent over `grids`, with Infinity's bitwise self-correction.

    Each scale quantises what is left of the latent after the earlier scales. When bits are flipped, the
    flipped code is what is subtracted and shown, while the clean bits stay the labels: the model learns to
    correct its own mistakes.

    Args:
        latent: [B, bits, H, W].
        grids: heights and widths of the code maps, the last one the latent's own; or the first of them alone.
        flip_probability: per scale and image [S, B]; None flips nothing.
        generator: draws the flips.
    """
    bits, inputs = [], []
    summed = torch.zeros_like(latent)
    full = tuple(latent.shape[-2:])
    for scale, grid in enumerate(grids):
        residual = _resize(latent - summed, grid, "area")
        positive = residual > 0
        bits.append(positive.permute(0, 2, 3, 1).to(torch.uint8))
        if flip_probability is not None:
            draw = torch.rand(positive.shape, device=latent.device, generator=generator)
            positive = positive ^ (draw < flip_probability[scale].view(-1, 1, 1, 1))
        code = (positive.to(latent.dtype) * 2 - 1) * latent.shape[1] ** -0.5
        summed = summed + _resize(code, full, "linear")
        if scale + 1 < len(grids):
            inputs.append(_resize(summed, grids[scale + 1], "linear"))
    return MultiScaleCodes(bits, inputs, summed)


def _resize(maps: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Maps [..., H, W] resized as `F.interpolate` does, as two products of matrices.

    On a GPU many small maps take torch's bilinear kernel a hundred times as long.
    """
    if tuple(maps.shape[-2:]) == size:
        return maps
    for target in reversed(size):
        maps = (maps @ _resampling(maps.shape[-1], target, mode, maps.dtype, maps.device)).transpose(-1, -2)
    return maps


@functools.lru_cache(maxsize=128)
def _resampling(source: int, target: int, mode: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What every source counts in every target, [source, target]."""
    with torch.inference_mode(False):
        return F.interpolate(torch.eye(source, dtype=dtype, device=device)[None], size=target, mode=mode)[0]
