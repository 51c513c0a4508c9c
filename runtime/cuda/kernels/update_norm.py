"""Adds a branch to the residual stream and norms the tokens that are computed next, in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from toprovar.runtime.cuda.kernels.round_rows import rounded_row
from toprovar.runtime.cuda.scaled import Scaled

__all__ = ["update_norm"]

_EPS = tl.constexpr(1e-6)


@triton.jit(do_not_specialize=["tokens", "kept", "halves", "part_rows", "part_stride"])
def _update_norm(
    x, order, branch, gain, scale, shift, out, factors, tokens, kept, halves, gain_row, norm_row,
    part_rows, part_stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr, ORDERED: tl.constexpr, BRANCH: tl.constexpr,
    GAIN: tl.constexpr, NORM: tl.constexpr, MODULATED: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """One token of one row; ``gain_row`` and ``norm_row`` are strides between rows."""
    place = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    token = place.to(tl.int64)
    if ORDERED:
        token = tl.load(order + (row // halves) * tokens + place).to(tl.int64)
    channel = tl.arange(0, BLOCK)
    inside = channel < WIDTH
    pointer = x + (row * tokens + token) * WIDTH + channel
    compact = (row * kept + place) * WIDTH + channel
    value = tl.load(pointer, mask=inside, other=0.0).to(tl.float32)
    if BRANCH:
        update = tl.load(branch + compact, mask=inside, other=0.0).to(tl.float32)
        if GAIN:
            update *= tl.load(gain + row * gain_row + channel, mask=inside, other=0.0)
        rounded = (value + update).to(x.dtype.element_ty)
        tl.store(pointer, rounded, mask=inside)
        # What is normed is what is stored, so that both in one pass or in two give the same.
        value = rounded.to(tl.float32)
    if NORM:
        mean = tl.sum(value, 0) / WIDTH
        centred = tl.where(inside, value - mean, 0.0)
        normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / WIDTH + _EPS)
        factor = tl.load(scale + row * norm_row + channel, mask=inside, other=0.0)
        if MODULATED:
            factor += 1.0
        normed = normed * factor + tl.load(shift + row * norm_row + channel, mask=inside, other=0.0)
        if SCALED:
            normed = tl.where(inside, normed, 0.0)
            rounded_row(normed, out, factors, row * kept + place, part_rows, part_stride, channel, inside, WIDTH)
        else:
            tl.store(out + compact, normed.to(out.dtype.element_ty), mask=inside)


def update_norm(
    x: torch.Tensor,
    order: torch.Tensor | None,
    kept: int,
    halves: int,
    branch: torch.Tensor | None,
    gain: torch.Tensor | None,
    norm: tuple[torch.Tensor, torch.Tensor] | None,
    modulated: bool,
    out: torch.Tensor | Scaled | None,
) -> None:
    """Launches; see `PlainOps.update_norm`.

    Args:
        x: [R, L, C], contiguous.
        order: int64 [B, L], contiguous, or None.
        kept: tokens K of every row.
        halves: rows an image.
        branch: [R * K, C], contiguous, or None.
        gain: fp32 [R, C], dense in C, or None.
        norm: scale and shift, fp32 [R, C] or [1, C] of the same strides, or None.
        modulated: one is added to the scale.
        out: [R * K, C], contiguous, or in fp8; needed with `norm`.
    """
    rows, tokens, width = x.shape
    block = triton.next_power_of_2(width)
    scale, shift = norm if norm is not None else (x, x)
    scaled = out if isinstance(out, Scaled) else None
    values = out.values if isinstance(out, Scaled) else x if out is None else out
    _update_norm[(kept, rows)](
        x, order if order is not None else x, branch if branch is not None else x, gain if gain is not None else x,
        scale, shift, values, scaled.factors if scaled is not None else x, tokens, kept, halves,
        gain.stride(0) if gain is not None else 0, 0 if scale.shape[0] == 1 else scale.stride(0),
        scaled.part_rows if scaled is not None else 1, scaled.factors.stride(0) if scaled is not None else 1,
        WIDTH=width, BLOCK=block, ORDERED=order is not None, BRANCH=branch is not None, GAIN=gain is not None,
        NORM=norm is not None, MODULATED=modulated, SCALED=scaled is not None, num_warps=min(max(block // 256, 1), 16),
    )  # fmt: skip
