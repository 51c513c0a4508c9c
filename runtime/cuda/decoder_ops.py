"""What the image decoder does between convolutions, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["PlainDecoderOps"]

_EPS = 1e-6


class PlainDecoderOps:
    """Norms and sums over features [B, C, h, w].

    The moments of features are count, mean and sum of squared deviations of the groups of some of their pixels,
    fp32 [B, parts, 3, groups].
    """

    def moments(self, x: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """Moments of ``x + bias``.

        Args:
            x: features.
            bias: fp32 [C] that is still to be added to them.
            groups: number of groups.
        """
        values = x.float() if bias is None else x.float() + bias.view(1, -1, 1, 1)
        grouped = values.unflatten(1, (groups, -1)).flatten(2)
        variance, mean = torch.var_mean(grouped, 2, correction=0)
        count = torch.full_like(mean, grouped.shape[2])
        return torch.stack([count, mean, variance * count], dim=1).unsqueeze(1)

    def affine(self, moments: Tensor, bias: Tensor | None, weight: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """A group norm as one gain and one shift a channel.

        Args:
            moments: of ``x + bias``.
            bias: as the moments'; the shift that is returned contains it.
            weight: fp32 [C] of the norm.
            shift: fp32 [C] of the norm.

        Returns:
            fp32 [B, C] each: the norm of ``x + bias`` is ``x * gain + shift``.
        """
        count, means, spread = moments.unbind(2)
        total = count.sum(1)
        mean = (count * means).sum(1) / total
        variance = (spread + count * (means - mean.unsqueeze(1)).square()).sum(1) / total
        size = len(weight) // mean.shape[1]
        gain = torch.rsqrt(variance + _EPS).repeat_interleave(size, 1) * weight
        moved = shift - mean.repeat_interleave(size, 1) * gain
        return gain, moved if bias is None else moved + bias * gain

    def silu(self, x: Tensor, gain: Tensor, shift: Tensor, inplace: bool = False) -> Tensor:
        """SiLU of ``x * gain + shift``, in the type of x, and in its memory if that is not needed any more."""
        out = F.silu(x.float() * gain[:, :, None, None] + shift[:, :, None, None])
        return x.copy_(out) if inplace else out.to(x.dtype)

    def add(
        self, x: Tensor, bias: Tensor | None, other: Tensor, other_bias: Tensor | None, groups: int
    ) -> tuple[Tensor, Tensor | None]:
        """The sum of two features and biases, in the type of x, with its moments; no groups, no moments."""
        total = x.float() + other.float()
        for part in (bias, other_bias):
            if part is not None:
                total = total + part.view(1, -1, 1, 1)
        out = total.to(x.dtype)
        return out, self.moments(out, None, groups) if groups else None

    def interleave(self, x: Tensor, bias: Tensor, groups: int) -> tuple[Tensor, Tensor | None]:
        """The pixels of an upsampling convolution in their places.

        Args:
            x: [B, 4 C, h + 1, w + 1], what a convolution of 2 x 2 pixels gives for the four places of a pixel; that of
                the lower two begins one row, that of the right two one column later.
            bias: fp32 [C], which is added.
            groups: of the moments; 0 for none.

        Returns:
            [B, C, 2 h, 2 w], and its moments.
        """
        height, width = x.shape[2] - 1, x.shape[3] - 1
        places = x.unflatten(1, (2, 2, -1))
        out = x.new_empty((x.shape[0], len(bias), 2 * height, 2 * width)).contiguous(memory_format=torch.channels_last)
        for row in (0, 1):
            for column in (0, 1):
                own = places[:, row, column, :, row : row + height, column : column + width]
                out[:, :, row::2, column::2] = own.float() + bias.view(1, -1, 1, 1)
        return out, self.moments(out, None, groups) if groups else None
