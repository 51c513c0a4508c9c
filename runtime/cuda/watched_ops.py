"""Steps that show the logits that bits are drawn from, for measurements."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor

from toprovar.runtime.cuda.ops import PlainOps, Sampling

__all__ = ["watched"]


def watched(ops: PlainOps, told: Callable[[Tensor], None]) -> PlainOps:
    """The same steps, but somebody is told every scale's logits.

    Args:
        ops: how to compute.
        told: gets them over temperature and with guidance, fp32 [B, L, d, 2].
    """
    shown, draw, draw_guided = copy.copy(ops), ops.sample, ops.sample_guided

    def sample(logits: Tensor, sampling: Sampling, guided: bool, *rest: Any) -> Tensor:
        told(ops.guide(logits.unflatten(-1, (-1, 2)) / sampling.scalars[1], sampling, guided, None))
        return draw(logits, sampling, guided, *rest)

    def sample_guided(guided: Tensor, *rest: Any) -> Tensor:
        told(guided)
        return draw_guided(guided, *rest)

    vars(shown).update(sample=sample, sample_guided=sample_guided)
    return shown
