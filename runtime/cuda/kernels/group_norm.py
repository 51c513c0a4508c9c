"""Group norm with SiLU, and sums with biases, over features whose channels lie side by side."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["add", "affine_silu", "statistics"]

_EPS = tl.constexpr(1e-6)
_TILE = 8192
_PARTS = 512
"""Programs an image that gather statistics, at most."""


@triton.jit
def _joined(count, mean, spread, other_count, other_mean, other_spread):
    """Count, mean and sum of squared deviations of two samples together."""
    total = tl.maximum(count + other_count, 1.0)
    away = other_mean - mean
    spread += other_spread + away * away * (count * other_count / total)
    return count + other_count, mean + away * (other_count / total), spread


@triton.jit(do_not_specialize=["pixels", "tiles"])
def _gather(
    x, bias, parts, pixels, tiles,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Statistics of every group over some tiles of pixels of one image."""
    SIZE: tl.constexpr = CHANNELS // GROUPS
    image = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    count = tl.zeros([GROUPS], tl.float32)
    mean = tl.zeros([GROUPS], tl.float32)
    spread = tl.zeros([GROUPS], tl.float32)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        pixel = tile * BLOCK + tl.arange(0, BLOCK)
        inside = (pixel < pixels)[:, None]
        place = (image * pixels + pixel[:, None]) * CHANNELS + channel[None, :]
        value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            value += tl.load(bias + channel)[None, :]
        value = tl.where(inside, value, 0.0)
        own = tl.minimum(pixels - tile * BLOCK, BLOCK).to(tl.float32) * SIZE
        centre = tl.sum(tl.reshape(tl.sum(value, 0), [GROUPS, SIZE]), 1) / own
        spaced = tl.reshape(tl.broadcast_to(centre[:, None], [GROUPS, SIZE]), [CHANNELS])
        far = tl.where(inside, value - spaced[None, :], 0.0)
        width = tl.sum(tl.reshape(tl.sum(far * far, 0), [GROUPS, SIZE]), 1)
        count, mean, spread = _joined(count, mean, spread, own, centre, width)
    group = tl.arange(0, GROUPS)
    target = parts + (image * tl.num_programs(0) + tl.program_id(0)) * (3 * GROUPS) + group
    tl.store(target, count)
    tl.store(target + GROUPS, mean)
    tl.store(target + 2 * GROUPS, spread)


@triton.jit(do_not_specialize=["programs"])
def _combine(
    parts, bias, weight, shift, out, programs,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Gain and shift of one group's channels of one image."""
    SIZE: tl.constexpr = CHANNELS // GROUPS
    group = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    part = tl.arange(0, BLOCK)
    source = parts + (image * programs + part) * (3 * GROUPS) + group
    known = part < programs
    count = tl.load(source, mask=known, other=0.0)
    mean = tl.load(source + GROUPS, mask=known, other=0.0)
    spread = tl.load(source + 2 * GROUPS, mask=known, other=0.0)
    total = tl.sum(count, 0)
    centre = tl.sum(count * mean, 0) / total
    away = mean - centre
    variance = (tl.sum(spread, 0) + tl.sum(count * away * away, 0)) / total
    channel = group * SIZE + tl.arange(0, SIZE)
    gain = tl.load(weight + channel) * tl.rsqrt(variance + _EPS)
    moved = tl.load(shift + channel) - centre * gain
    if BIAS:
        moved += tl.load(bias + channel) * gain
    target = out + image * (2 * CHANNELS) + channel
    tl.store(target, gain)
    tl.store(target + CHANNELS, moved)


def statistics(
    x: torch.Tensor, bias: torch.Tensor | None, weight: torch.Tensor, shift: torch.Tensor, groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launches; see `PlainDecoderOps.statistics`. Features are channels last; channels a power of two."""
    images, channels, height, width = x.shape
    pixels = height * width
    block = max(_TILE // channels, 1)
    tiles = triton.cdiv(pixels, block)
    programs = min(tiles, _PARTS)
    parts = torch.empty(images, programs, 3, groups, device=x.device)
    out = torch.empty(images, 2, channels, device=x.device)
    given = bias if bias is not None else weight
    _gather[(programs, images)](
        x, given, parts, pixels, tiles,
        CHANNELS=channels, GROUPS=groups, BLOCK=block, BIAS=bias is not None, num_warps=8,
    )  # fmt: skip
    _combine[(groups, images)](
        parts, given, weight, shift, out, programs,
        CHANNELS=channels, GROUPS=groups, BLOCK=_PARTS, BIAS=bias is not None, num_warps=4,
    )  # fmt: skip
    return out[:, 0], out[:, 1]


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


def affine_silu(x: torch.Tensor, gain: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Launches; see `PlainDecoderOps.silu`. Features are rows of features that are channels last."""
    images, channels, height, width = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels = height * width
    _affine_silu[(triton.cdiv(pixels * channels, 4096), images)](
        x, gain, shift, out, pixels, x.stride(0), gain.stride(0), CHANNELS=channels, BLOCK=4096, num_warps=8
    )
    return out


@triton.jit(do_not_specialize=["count"])
def _add(
    x, bias, other, other_bias, out, count, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
    BIAS: tl.constexpr, OTHER: tl.constexpr, OTHER_BIAS: tl.constexpr,
):  # fmt: skip
    """Some values of all images."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    channel = (place % CHANNELS).to(tl.int32)
    value = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    if BIAS:
        value += tl.load(bias + channel)
    if OTHER_BIAS:
        value += tl.load(other_bias + channel)
    if OTHER:
        value += tl.load(other + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


def add(
    x: torch.Tensor, bias: torch.Tensor | None, other: torch.Tensor | None, other_bias: torch.Tensor | None
) -> torch.Tensor:
    """Launches; see `PlainDecoderOps.add`. Features are channels last."""
    out = torch.empty_like(x)
    unused = x
    _add[(triton.cdiv(x.numel(), 4096),)](
        x, bias if bias is not None else unused, other if other is not None else unused,
        other_bias if other_bias is not None else unused, out, x.numel(), CHANNELS=x.shape[1], BLOCK=4096,
        BIAS=bias is not None, OTHER=other is not None, OTHER_BIAS=other_bias is not None, num_warps=8,
    )  # fmt: skip
    return out
