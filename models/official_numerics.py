"""The order in which the official implementation rounded when it made the golden data.

The official code casts query, key and value of every cross-attention to bfloat16. A float32 value that differs in
its last bit then now and then rounds to the other neighbour, 0.4 % away, and moves logits by up to 5e-3: agreement
to 1e-4 takes the same bits before the cast. Those depend on the order of summation, which a matrix library chooses
by processor. `OfficialRounding` fixes it to the order found on the processor behind the golden data (MKL with
AVX-512 and AMX, two threads), so that `toprovar.models.parity` gives the same numbers everywhere. Deployments do
not round like this: their cross-attention stays in float32.

A fused multiply-add rounds once. In float64 the product of two float32 values is exact, so adding there and
rounding to float32 gives the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["OfficialRounding", "add_codes", "resize_codes"]

_BLOCK = 384
"""Most inputs that MKL adds up in one go."""

_LANES = 16
"""float32 values in an AVX-512 register."""

_TILE = 32
"""bfloat16 values in a row of an AMX tile."""

_KEYS = 512
"""Keys that torch's attention on CPUs handles at a time."""

_LOWEST = -87.3365478515625
"""Torch's fast exponentials are 0 below."""

_LOG2_E = 1.44269504

_EXPF = tuple(float.fromhex(c) for c in ("0x1.c6af84b912394p-20", "0x1.ebfce50fac4f3p-13", "0x1.62e42ff0c52d6p-6"))
"""Coefficients of the C library's ``expf``, of the third to the first power."""


def _fused(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Left * right + total, rounded once to float32."""
    return torch.addcmul(total.double(), left.double(), right.double()).float()


def _chain(left: Tensor, right: Tensor) -> Tensor:
    """[..., M, K] times [..., K, N], the K products added one after the other."""
    left, right = left.double(), right.double()
    total = left.new_zeros(*left.shape[:-1], right.shape[-1])
    for k in range(left.shape[-1]):
        total = torch.addcmul(total, left[..., k : k + 1], right[..., k : k + 1, :]).float().double()
    return total.float()


def _blocks(total: Tensor, left: Tensor, right: Tensor, parallel: bool) -> Tensor:
    """Adds a product to `total`, a chain for every block of inputs; of many inputs, two threads take half each."""
    inputs = left.shape[-1]
    if parallel and inputs > 2 * _BLOCK:
        first, second = zip(left.split((inputs + 1) // 2, -1), right.split((inputs + 1) // 2, -2), strict=True)
        total = _blocks(total, *first, parallel=False)
        return total + _blocks(torch.zeros_like(total), *second, parallel=False)
    size = (inputs + 1) // 2 if _BLOCK < inputs <= 2 * _BLOCK else _BLOCK
    for part in zip(left.split(size, -1), right.split(size, -2), strict=True):
        total = total + _chain(*part)
    return total


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """[..., M, K] times [..., K, N] as dot products of vectors: a chain a lane, then the lanes pairwise."""
    width = -left.shape[-1] % _LANES
    left = F.pad(left, (0, width)).unflatten(-1, (-1, _LANES)).movedim(-1, 0)
    right = F.pad(right, (0, 0, 0, width)).unflatten(-2, (-1, _LANES)).movedim(-2, 0)
    lanes = _chain(left, right).unflatten(0, (4, 4))
    a, b, c, d = ((lanes[0] + lanes[1]) + lanes[2]) + lanes[3]
    return (a + b) + (c + d)


def _product(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`total` plus [..., M, K] times [..., K, N] as MKL does it for a transposed right factor."""
    rows, inputs, outputs = *left.shape[-2:], right.shape[-1]
    aligned = inputs % 256 == 0 or outputs % 256 == 0
    small = rows < 4 or rows * inputs * outputs < 3 << 16 or aligned
    if rows < 16 and inputs >= 24 * rows and small:
        return total + _dot(left, right)
    return _blocks(total, left, right, parallel=rows * outputs <= 1 << 16)


def _tiles(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Adds a product of bfloat16 values, held as float32, in AMX tiles: even and odd inputs in a chain each."""
    for a, b in zip(left.split(_TILE, -1), right.split(_TILE, -2), strict=True):
        total = total + (_chain(a[..., ::2], b[..., ::2, :]) + _chain(a[..., 1::2], b[..., 1::2, :]))
    return total


def _exp(x: Tensor) -> Tensor:
    """Correctly rounded, as MKL's is in 99 cases of 100."""
    return x.double().exp().float()


def _scalar_exp(x: Tensor) -> Tensor:
    """The C library's ``expf``: a power of two in 32nds times a cubic polynomial, in float64."""
    scaled = x.double().clamp_min(-150) * (32 / math.log(2))
    power = scaled.round()
    rest = scaled - power
    high = (rest * _EXPF[0] + _EXPF[1]) * rest.square()
    return ((high + (rest * _EXPF[2] + 1)) * torch.exp2(power / 32)).float()


def _vector_exp(x: Tensor) -> Tensor:
    """Torch's fast exponential for AVX-512 (``exp_u20``): a power of two times a polynomial."""
    one = torch.ones_like(x)
    clamped = x.clamp_min(_LOWEST)
    power = _fused(one / 2, clamped, one * _LOG2_E).floor()
    rest = _fused(clamped, -power, one * 0.69314718)
    value = one * 0.00828929059
    for coefficient in (0.0418978221, 0.166676521, 0.499991506, 0.999999701, 1.0):
        value = _fused(one * coefficient, rest, value)
    return torch.where(x < _LOWEST, 0.0, torch.ldexp(value, power))


def _vector_exp_half(x: Tensor) -> Tensor:
    """Its coarser one for results in bfloat16 (``fexp_u20``): a corrected logarithm becomes the bits of a float."""
    one = torch.ones_like(x)
    logarithm = x * _LOG2_E
    fraction = logarithm - logarithm.floor()
    value = one * -0.079204240219773236
    for coefficient in (-0.22433836478672356, 0.30354260500649682, 0.00010703434948458272):
        value = _fused(one * coefficient, fraction, value)
    bits = _fused(one * (127 << 23), one * (1 << 23), logarithm - value)
    return torch.where(x < _LOWEST, 0, bits.to(torch.int32)).view(torch.float32)


def _exp_and_sum(x: Tensor, half: bool) -> tuple[Tensor, Tensor]:
    """Exponentials of [..., K] and their sum [..., 1]: whole vectors first, then what is left over."""
    whole = x.shape[-1] // _LANES * _LANES
    values = torch.cat([(_vector_exp_half if half else _vector_exp)(x[..., :whole]), _exp(x[..., whole:])], dim=-1)
    total = x.new_zeros(*x.shape[:-1], _LANES)
    for start in range(0, whole, _LANES):
        total = total + values[..., start : start + _LANES]
    while total.shape[-1] > 1:
        low, high = total.chunk(2, dim=-1)
        total = low + high
    for position in range(whole, x.shape[-1]):
        total = total + values[..., position : position + 1]
    return values, total


def _attend_block(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Torch's attention on CPUs over a block of queries: unnormalised, rescaled when the maximum grows."""
    half = query.dtype == torch.bfloat16
    query, key, value = query.float(), key.float(), value.float()
    outcome, total = torch.zeros_like(query), query.new_zeros(*query.shape[:-1], 1)
    highest = torch.full_like(total, -torch.inf)
    for start in range(0, key.shape[2], _KEYS):
        keys, values = key[:, :, start : start + _KEYS].transpose(-1, -2), value[:, :, start : start + _KEYS]
        zeros = query.new_zeros(*query.shape[:-1], keys.shape[-1])
        scores = (_tiles(zeros, query, keys) if half else _product(zeros, query, keys)) * scale
        if mask is not None:
            scores = scores + mask[..., start : start + _KEYS]
        maximum = scores.amax(-1, keepdim=True).maximum(highest)
        weights, added = _exp_and_sum(scores - maximum, half)
        shrink = _scalar_exp(highest - maximum)
        total, highest, outcome = _fused(added, shrink, total), maximum, outcome * shrink
        if half:
            outcome = _tiles(outcome, weights.bfloat16().float(), values)
        else:
            outcome = _blocks(outcome, weights, values, parallel=False)
    return outcome * (1 / total)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Cross-attention, known by its mask, in bfloat16; self-attention in float32."""
    if attn_mask is not None:
        query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    length = query.shape[2]
    size = 256 if length >= 768 else 64 if length >= 192 else 32
    blocks = [_attend_block(block, key, value, attn_mask, scale) for block in query.split(size, dim=2)]
    return torch.cat(blocks, dim=2).to(query.dtype).float()


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = x.flatten(0, -2)
    start = x.new_zeros(len(weight)) if bias is None else bias
    return _product(start.expand(len(rows), -1), rows, weight.T).view(*x.shape[:-1], -1)


_REPLACED: dict[Any, Callable[..., Tensor]] = {
    F.linear: _linear,
    F.scaled_dot_product_attention: _attention,
    Tensor.exp: _exp,
}


class OfficialRounding(TorchFunctionMode):
    """Inside this context, torch's products, attention and exponential round as behind the golden data."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls the replacement of `func`, or `func` where it has none."""
        return _REPLACED.get(func, func)(*args, **(kwargs or {}))


def add_codes(summed: Tensor | None, bits: Tensor, final: tuple[int, int]) -> Tensor:
    """Adds a scale's codes to their sum as the official sampler does.

    Args:
        summed: [B, d, 1, H, W] of the scales before, None before the first.
        bits: 0 or 1 [B, 1, h, w, d], as the decoder sees them.
        final: H and W.
    """
    unit = bits.shape[-1] ** -0.5
    codes = F.normalize(bits * unit * 2 - unit, dim=-1).movedim(-1, 1)
    codes = F.interpolate(codes, size=(1, *final), mode="trilinear")
    return codes if summed is None else summed + codes


def resize_codes(summed: Tensor, grid: tuple[int, int], patchify: bool) -> Tensor:
    """Summed codes [B, d, 1, H, W] at the decoder's grid of a scale, as tokens [B, L, bits]."""
    shown = F.interpolate(summed, size=(1, *grid), mode="trilinear").squeeze(2)
    if patchify:
        shown = F.pixel_unshuffle(shown, 2)
    return shown.flatten(2).transpose(1, 2)
