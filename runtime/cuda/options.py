"""How the runtime works, apart from what it computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from toprovar.manifest import Precision

__all__ = ["RuntimeOptions"]


@dataclass(frozen=True)
class RuntimeOptions:
    """Choices of a runtime.

    Attributes:
        precision: of weights, cache and activations; ``fp8`` rounds the operands of the large matrix products and
            leaves the rest in bf16.
        captured: replay CUDA graphs; False runs the same calls one by one, to the same bits.
        fused: use the Triton kernels; False uses plain torch.
        round_kept: a pruned layer computes the next multiple of this many tokens, never more than there are.
        batch_invariant: matrix products see one image at a time, so that an image does not depend on its batch.
        text_multiple: text is padded to a multiple of this many tokens, so that prompts of similar length share
            their graphs.
        decoder_rows: rows of pixels that the image decoder computes at a time; 0 for all of them.
        low_vram: text encoder and image decoder are on the device only while they work; the decoder then runs call by
            call.
        shows_logits: logits can be probed; nothing is captured then.
    """

    precision: Precision = "bf16"
    captured: bool = True
    fused: bool = True
    round_kept: int = 1
    batch_invariant: bool = True
    text_multiple: int = 64
    decoder_rows: int = 0
    low_vram: bool = False
    shows_logits: bool = False

    @classmethod
    def plain(cls) -> RuntimeOptions:
        """Plain torch in fp32, call by call: what runs anywhere."""
        return cls("fp32", captured=False, fused=False, text_multiple=1)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, cache and activations."""
        return torch.float32 if self.precision == "fp32" else torch.bfloat16

    def rounded(self, kept: int, tokens: int) -> int:
        """The count that is computed where a plan keeps `kept` of `tokens`."""
        if kept in (0, tokens):
            return kept
        return min(-(-kept // self.round_kept) * self.round_kept, tokens)
