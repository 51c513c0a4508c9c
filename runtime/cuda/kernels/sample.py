"""Draws bits from pairs of logits and lays out their codes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["sample"]


@triton.jit(do_not_specialize=["count", "tokens", "width", "halves"])
def _sample(
    logits, noise, scalars, bits, codes, count, tokens, width, halves, unit,
    BITS: tl.constexpr, FACTOR: tl.constexpr, GUIDED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Some bits of all images; ``scalars`` are guidance, temperature and certainty."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    bit = place % BITS
    token = (place // BITS) % tokens
    image = (place // BITS) // tokens
    temperature = tl.load(scalars + 1)
    first = (image * halves * tokens + token).to(tl.int64) * (2 * BITS) + 2 * bit
    zero = tl.load(logits + first, mask=inside, other=0.0) / temperature
    one = tl.load(logits + first + 1, mask=inside, other=0.0) / temperature
    if GUIDED:
        guidance = tl.load(scalars)
        other = first + (halves - 1).to(tl.int64) * tokens * (2 * BITS)
        zero = guidance * zero + (1 - guidance) * (tl.load(logits + other, mask=inside, other=0.0) / temperature)
        one = guidance * one + (1 - guidance) * (tl.load(logits + other + 1, mask=inside, other=0.0) / temperature)
    difference = one - zero
    drawn = difference + tl.load(noise + place, mask=inside, other=0.0)
    drawn = tl.where(tl.abs(difference) >= tl.load(scalars + 2), difference, drawn)
    chosen = drawn > 0
    tl.store(bits + place, chosen.to(tl.uint8), mask=inside)
    # Of a patch of codes the bits are channel by channel, within it row by row.
    PATCH: tl.constexpr = FACTOR * FACTOR
    channel, inner = bit // PATCH, bit % PATCH
    row = (token // width) * FACTOR + inner // FACTOR
    column = (token % width) * FACTOR + inner % FACTOR
    target = ((image * (BITS // PATCH) + channel) * tokens * PATCH) + row * (width * FACTOR) + column
    tl.store(codes + target, tl.where(chosen, unit, -unit), mask=inside)


def sample(
    logits: torch.Tensor,
    noise: torch.Tensor,
    scalars: torch.Tensor,
    guided: bool,
    height: int,
    factor: int,
    bits: torch.Tensor,
) -> torch.Tensor:
    """Launches; see `PlainOps.sample`.

    Args:
        logits: fp32 [B, halves, L, 2 d], contiguous.
        noise: fp32 [B, L, d], contiguous.
        scalars: fp32 [3]: guidance, temperature, certainty.
        guided: guidance applies to the logits.
        height: rows of tokens.
        factor: codes a token's side.
        bits: uint8 [B, L, d], contiguous.

    Returns:
        fp32 [B, d / factor^2, height * factor, width * factor].
    """
    images, halves, tokens, _ = logits.shape
    depth = noise.shape[2]
    width, channels = tokens // height, depth // factor**2
    codes = torch.empty(images, channels, height * factor, width * factor, device=logits.device)
    _sample[(triton.cdiv(noise.numel(), 256),)](
        logits, noise, scalars, bits, codes, noise.numel(), tokens, width, halves, channels**-0.5,
        BITS=depth, FACTOR=factor, GUIDED=guided, BLOCK=256, num_warps=4,
    )  # fmt: skip
    return codes
