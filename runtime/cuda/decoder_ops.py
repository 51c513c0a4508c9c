"""What the image decoder does between convolutions, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PlainDecoderOps"]

_EPS = 1e-6


class PlainDecoderOps:
    """Norms and sums over features [B, C, h, w]."""

    def statistics(
        self, x: Tensor, bias: Tensor | None, weight: Tensor, shift: Tensor, groups: int
    ) -> tuple[Tensor, Tensor]:
        """A group norm as one gain and one shift a channel.

        Args:
            x: features.
            bias: [C] that is still to be added to them; the shift that is returned contains it.
            weight: fp32 [C] of the norm.
            shift: fp32 [C] of the norm.
            groups: number of groups.

        Returns:
            fp32 [B, C] each: the norm of ``x + bias`` is ``x * gain + shift``.
        """
        values = x.float() if bias is None else x.float() + bias.view(1, -1, 1, 1)
        grouped = values.unflatten(1, (groups, -1)).flatten(2)
        variance, mean = torch.var_mean(grouped, 2, correction=0)
        size = x.shape[1] // groups
        gain = torch.rsqrt(variance + _EPS).repeat_interleave(size, 1) * weight
        moved = shift - mean.repeat_interleave(size, 1) * gain
        return gain, moved if bias is None else moved + bias * gain

    def silu(self, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """SiLU of ``x * gain + shift``, in the type of x."""
        return F.silu(x.float() * gain[:, :, None, None] + shift[:, :, None, None]).to(x.dtype)

    def add(self, x: Tensor, bias: Tensor | None, other: Tensor | None, other_bias: Tensor | None) -> Tensor:
        """The sum of features and biases, in the type of x."""
        total = x.float()
        for part in (bias, other_bias):
            if part is not None:
                total = total + part.view(1, -1, 1, 1)
        if other is not None:
            total = total + other.float()
        return total.to(x.dtype)
