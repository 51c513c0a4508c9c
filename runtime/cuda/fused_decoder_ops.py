"""What the image decoder does between convolutions, with Triton kernels."""

from __future__ import annotations

from torch import Tensor

from toprovar.runtime.cuda.decoder_ops import PlainDecoderOps
from toprovar.runtime.cuda.kernels import features, group_norm

__all__ = ["FusedDecoderOps"]


class FusedDecoderOps(PlainDecoderOps):
    """Each in one pass over the features; numbers of channels that are no power of two take their moments plainly."""

    def moments(self, x: Tensor, bias: Tensor | None, groups: int) -> Tensor:
        """One pass."""
        return group_norm.moments(x, bias, groups) if _even(x.shape[1], groups) else super().moments(x, bias, groups)

    def affine(self, moments: Tensor, bias: Tensor | None, weight: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """One launch."""
        if not _even(len(weight), moments.shape[3]):
            return super().affine(moments, bias, weight, shift)
        return group_norm.affine(moments, bias, weight, shift)

    def silu(self, x: Tensor, gain: Tensor, shift: Tensor, inplace: bool = False) -> Tensor:
        """One pass."""
        return features.affine_silu(x, gain, shift, inplace)

    def add(
        self, x: Tensor, bias: Tensor | None, other: Tensor, other_bias: Tensor | None, groups: int
    ) -> tuple[Tensor, Tensor | None]:
        """One pass, moments included."""
        if not _even(x.shape[1], groups):
            return super().add(x, bias, other, other_bias, groups)
        return features.add(x, bias, other, other_bias, groups)

    def interleave(self, x: Tensor, bias: Tensor, groups: int) -> tuple[Tensor, Tensor | None]:
        """One pass, moments included."""
        return features.interleave(x, bias, groups) if _even(len(bias), groups) else super().interleave(x, bias, groups)


def _even(channels: int, groups: int) -> bool:
    return not (channels & (channels - 1) or groups & (groups - 1))
