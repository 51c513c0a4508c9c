"""SiLU, sums and the interleaving of upsampled pixels, over features whose channels lie side by side."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from toprovar.runtime.cuda.kernels.group_norm import parts, store_moments

__all__ = ["add", "affine_silu", "interleave"]


@triton.jit(do_not_specialize=["pixels"])
def _affine_silu(x, gain, shift, out, pixels, x_image, affine_image, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Some values of one image."""
    image = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < pixels * CHANNELS
    channel = (place % CHANNELS).to(tl.int32)
    value = tl.load(x + image * x_image + place, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.load(gain + image * affine_image + channel) + tl.load(shift + image * affine_image + channel)
    value = value / (1 + tl.exp(-value))
    tl.store(out + image * pixels * CHANNELS + place, value.to(out.dtype.element_ty), mask=inside)


def affine_silu(x: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor, inplace: bool) -> torch.Tensor:
    """Launches; see `PlainDecoderOps.silu`. Features are rows of features that are channels last; in place, all."""
    images, channels, height, width = x.shape
    out = x if inplace else torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels = height * width
    _affine_silu[(triton.cdiv(pixels * channels, 4096), images)](
        x, gain, shift, out, pixels, x.stride(0), gain.stride(0), CHANNELS=channels, BLOCK=4096, num_warps=8
    )
    return out


@triton.jit
def _sum(x, bias, other, other_bias, place, channel, inside, BIAS: tl.constexpr, OTHER_BIAS: tl.constexpr):
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(other + place, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + channel)
    if OTHER_BIAS:
        value += tl.load(other_bias + channel)
    return value


@triton.jit(do_not_specialize=["pixels", "tiles"])
def _add(
    x, bias, other, other_bias, out, parts, pixels, tiles, CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK: tl.constexpr, BIAS: tl.constexpr, OTHER_BIAS: tl.constexpr,
):  # fmt: skip
    """Some tiles of one image."""
    image = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    start = image * pixels * CHANNELS
    x, other, out = x + start, other + start, out + start
    sums = tl.zeros([BLOCK, CHANNELS], tl.float32)
    squares = tl.zeros([BLOCK, CHANNELS], tl.float32)
    pivot = tl.zeros([CHANNELS], tl.float32)
    if GROUPS:
        first = tl.program_id(0).to(tl.int64) * BLOCK * CHANNELS + channel
        pivot = _sum(x, bias, other, other_bias, first, channel, channel < CHANNELS, BIAS, OTHER_BIAS)
    seen = 0
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        pixel = tile * BLOCK + tl.arange(0, BLOCK)
        inside = (pixel < pixels)[:, None]
        place = pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
        value = _sum(x, bias, other, other_bias, place, channel[None, :], inside, BIAS, OTHER_BIAS)
        rounded = value.to(out.dtype.element_ty)
        tl.store(out + place, rounded, mask=inside)
        if GROUPS:
            far = tl.where(inside, rounded.to(tl.float32) - pivot[None, :], 0.0)
            sums += far
            squares += far * far
            seen += tl.minimum(pixels - tile * BLOCK, BLOCK)
    if GROUPS:
        target = parts + (image * tl.num_programs(0) + tl.program_id(0)) * (3 * GROUPS)
        store_moments(sums, squares, pivot, seen, target, CHANNELS, GROUPS)


def add(
    x: torch.Tensor, bias: torch.Tensor | None, other: torch.Tensor, other_bias: torch.Tensor | None, groups: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Launches; see `PlainDecoderOps.add`. Features are channels last; channels and groups powers of two."""
    images, channels, height, width = x.shape
    block, tiles, programs = parts(height * width, channels)
    out = torch.empty_like(x)
    moments = torch.empty(images, programs, 3, groups, device=x.device) if groups else None
    _add[(programs, images)](
        x, bias if bias is not None else x, other, other_bias if other_bias is not None else x, out,
        moments if moments is not None else x, height * width, tiles, CHANNELS=channels, GROUPS=groups, BLOCK=block,
        BIAS=bias is not None, OTHER_BIAS=other_bias is not None, num_warps=8,
    )  # fmt: skip
    return out, moments


@triton.jit
def _placed(x, bias, pixel, channel, inside, width, CHANNELS: tl.constexpr):
    """Values of pixels of the doubled image; `width` is that of the image before."""
    row, column = pixel // (2 * width), pixel % (2 * width)
    lower, right = row % 2, column % 2
    source = ((row // 2 + lower) * (width + 1) + column // 2 + right).to(tl.int64) * 4 + 2 * lower + right
    place = source[:, None] * CHANNELS + channel[None, :]
    return tl.load(x + place, mask=inside, other=0.0).to(tl.float32) + tl.load(bias + channel)[None, :]


@triton.jit(do_not_specialize=["pixels", "tiles", "width"])
def _interleave(
    x, bias, out, parts, x_image, pixels, tiles, width,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some tiles of one doubled image."""
    image = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    x += image * x_image
    out += image * pixels * CHANNELS
    sums = tl.zeros([BLOCK, CHANNELS], tl.float32)
    squares = tl.zeros([BLOCK, CHANNELS], tl.float32)
    pivot = tl.zeros([CHANNELS], tl.float32)
    if GROUPS:
        first = tl.program_id(0) * BLOCK + tl.arange(0, 1)
        pivot = tl.sum(_placed(x, bias, first, channel, (first < pixels)[:, None], width, CHANNELS), 0)
    seen = 0
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        pixel = tile * BLOCK + tl.arange(0, BLOCK)
        inside = (pixel < pixels)[:, None]
        rounded = _placed(x, bias, pixel, channel, inside, width, CHANNELS).to(out.dtype.element_ty)
        place = pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
        tl.store(out + place, rounded, mask=inside)
        if GROUPS:
            far = tl.where(inside, rounded.to(tl.float32) - pivot[None, :], 0.0)
            sums += far
            squares += far * far
            seen += tl.minimum(pixels - tile * BLOCK, BLOCK)
    if GROUPS:
        target = parts + (image * tl.num_programs(0) + tl.program_id(0)) * (3 * GROUPS)
        store_moments(sums, squares, pivot, seen, target, CHANNELS, GROUPS)


def interleave(x: torch.Tensor, bias: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Launches; see `PlainDecoderOps.interleave`. Features are channels last; channels and groups powers of two."""
    images, channels = x.shape[0], len(bias)
    height, width = 2 * (x.shape[2] - 1), 2 * (x.shape[3] - 1)
    block, tiles, programs = parts(height * width, channels)
    out = torch.empty(
        (images, channels, height, width), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    moments = torch.empty(images, programs, 3, groups, device=x.device) if groups else None
    _interleave[(programs, images)](
        x, bias, out, moments if moments is not None else x, x.stride(0), height * width, tiles, width // 2,
        CHANNELS=channels, GROUPS=groups, BLOCK=block, num_warps=8,
    )  # fmt: skip
    return out, moments
