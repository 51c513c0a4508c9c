"""What the image decoder does between convolutions, with Triton kernels."""

from __future__ import annotations

from torch import Tensor

from toprovar.runtime.cuda.decoder_ops import PlainDecoderOps
from toprovar.runtime.cuda.kernels import group_norm

__all__ = ["FusedDecoderOps"]


class FusedDecoderOps(PlainDecoderOps):
    """Each in one or two passes over the features."""

    def statistics(
        self, x: Tensor, bias: Tensor | None, weight: Tensor, shift: Tensor, groups: int
    ) -> tuple[Tensor, Tensor]:
        """One pass; numbers of channels that are no power of two take the plain way."""
        if any(size & (size - 1) for size in (x.shape[1], groups)):
            return super().statistics(x, bias, weight, shift, groups)
        return group_norm.statistics(x, bias, weight, shift, groups)

    def silu(self, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """One pass."""
        return group_norm.affine_silu(x, gain, shift)

    def add(self, x: Tensor, bias: Tensor | None, other: Tensor | None, other_bias: Tensor | None) -> Tensor:
        """One pass."""
        return group_norm.add(x, bias, other, other_bias)
