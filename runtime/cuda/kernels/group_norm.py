"""Statistics of group norms over features whose channels lie side by side."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["TILE", "affine", "moments", "parts", "store_moments"]

_EPS = tl.constexpr(1e-6)
TILE = 4096
"""Values that a program holds at a time."""
_PARTS = 1024
"""Programs an image that gather moments, at most."""
_FEW = 256
"""Moments that are merged as quickly as fewer: with fewer kernels, calibration decodes the pictures of all scales."""


def parts(pixels: int, channels: int) -> tuple[int, int, int]:
    """Pixels of a tile, number of tiles, and number of programs that share them."""
    block = max(TILE // channels, 1)
    tiles = triton.cdiv(pixels, block)
    return block, tiles, min(tiles, _PARTS)


@triton.jit
def store_moments(
    sums, squares, pivot, seen, target,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Count, mean and squared deviations of a program's groups.

    ``sums`` and ``squares`` [pixels, CHANNELS] are of deviations from ``pivot`` [CHANNELS], which keeps what is
    subtracted small where the mean is far from 0; ``seen`` is the number of pixels.
    """
    SIZE: tl.constexpr = CHANNELS // GROUPS
    number = seen.to(tl.float32)
    sums = tl.sum(sums, 0)
    off = sums / number
    spread = tl.maximum(tl.sum(squares, 0) - sums * off, 0.0)
    means = tl.reshape(pivot + off, [GROUPS, SIZE])
    mean = tl.sum(means, 1) / SIZE
    far = means - mean[:, None]
    group = tl.arange(0, GROUPS)
    tl.store(target + group, tl.zeros([GROUPS], tl.float32) + number * SIZE)
    tl.store(target + GROUPS + group, mean)
    tl.store(target + 2 * GROUPS + group, tl.sum(tl.reshape(spread, [GROUPS, SIZE]) + number * far * far, 1))


@triton.jit
def _far(x, tile, pivot, channel, pixels, CHANNELS: tl.constexpr, BLOCK: tl.constexpr):
    """Deviations of a tile's values, 0 where there are none, and the number of its pixels."""
    pixel = tile * BLOCK + tl.arange(0, BLOCK)
    inside = (pixel < pixels)[:, None]
    place = pixel.to(tl.int64)[:, None] * CHANNELS + channel[None, :]
    far = tl.load(x + place, mask=inside, other=0.0).to(tl.float32) - pivot[None, :]
    return tl.where(inside, far, 0.0), tl.maximum(tl.minimum(pixels - tile * BLOCK, BLOCK), 0)


@triton.jit(do_not_specialize=["pixels", "tiles"])
def _moments(
    x, bias, parts, pixels, tiles,
    CHANNELS: tl.constexpr, GROUPS: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Of some tiles of one image; four are on their way at a time, which hides how long memory takes to answer."""
    image = tl.program_id(1).to(tl.int64)
    channel = tl.arange(0, CHANNELS)
    x += image * pixels * CHANNELS
    first = tl.program_id(0).to(tl.int64) * 4 * BLOCK
    pivot = tl.load(x + first * CHANNELS + channel).to(tl.float32)
    sums = tl.zeros([BLOCK, CHANNELS], tl.float32)
    squares = tl.zeros([BLOCK, CHANNELS], tl.float32)
    seen = 0
    for tile in range(tl.program_id(0) * 4, tiles, tl.num_programs(0) * 4):
        far0, seen0 = _far(x, tile, pivot, channel, pixels, CHANNELS, BLOCK)
        far1, seen1 = _far(x, tile + 1, pivot, channel, pixels, CHANNELS, BLOCK)
        far2, seen2 = _far(x, tile + 2, pivot, channel, pixels, CHANNELS, BLOCK)
        far3, seen3 = _far(x, tile + 3, pivot, channel, pixels, CHANNELS, BLOCK)
        sums += (far0 + far1) + (far2 + far3)
        squares += (far0 * far0 + far1 * far1) + (far2 * far2 + far3 * far3)
        seen += seen0 + seen1 + seen2 + seen3
    if BIAS:
        pivot += tl.load(bias + channel)
    target = parts + (image * tl.num_programs(0) + tl.program_id(0)) * (3 * GROUPS)
    store_moments(sums, squares, pivot, seen, target, CHANNELS, GROUPS)


def moments(x: torch.Tensor, bias: torch.Tensor | None, groups: int) -> torch.Tensor:
    """Launches; see `PlainDecoderOps.moments`. Features are channels last; channels and groups powers of two."""
    images, channels, height, width = x.shape
    block = max(TILE // 2 // channels, 1)
    tiles = triton.cdiv(height * width, block)
    programs = min(triton.cdiv(tiles, 4), _PARTS)
    out = torch.empty(images, programs, 3, groups, device=x.device)
    _moments[(programs, images)](
        x, bias if bias is not None else x, out, height * width, tiles,
        CHANNELS=channels, GROUPS=groups, BLOCK=block, BIAS=bias is not None, num_warps=8,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["programs"])
def _affine(
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


def affine(
    moments: torch.Tensor, bias: torch.Tensor | None, weight: torch.Tensor, shift: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Launches; see `PlainDecoderOps.affine`. Channels and groups are powers of two."""
    images, programs, _, groups = moments.shape
    channels = len(weight)
    out = torch.empty(images, 2, channels, device=weight.device)
    _affine[(groups, images)](
        moments, bias if bias is not None else weight, weight, shift, out, programs,
        CHANNELS=channels, GROUPS=groups, BLOCK=max(triton.next_power_of_2(programs), _FEW), BIAS=bias is not None,
        num_warps=4,
    )  # fmt: skip
    return out[:, 0], out[:, 1]
