"""Fused kernels where they run, plain torch elsewhere."""

from __future__ import annotations

import torch

from toprovar.runtime.cuda.decoder_ops import PlainDecoderOps
from toprovar.runtime.cuda.ops import PlainOps
from toprovar.runtime.cuda.options import RuntimeOptions

__all__ = ["choose_decoder_ops", "choose_ops"]


def choose_ops(options: RuntimeOptions, device: torch.device) -> PlainOps:
    """The transformer's."""
    if options.fused and device.type == "cuda":
        from toprovar.runtime.cuda.fused_ops import FusedOps

        return FusedOps()
    return PlainOps()


def choose_decoder_ops(options: RuntimeOptions, device: torch.device) -> PlainDecoderOps:
    """The image decoder's."""
    if options.fused and device.type == "cuda":
        from toprovar.runtime.cuda.fused_decoder_ops import FusedDecoderOps

        return FusedDecoderOps()
    return PlainDecoderOps()
