"""How much of a layer's variance a few directions carry: R(l, s) of the method."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LEADING_SHARE", "leading_ratio"]

LEADING_SHARE = 0.05
"""Leading components, as a share of all: a twentieth, at least one."""

_NO_VARIANCE = 1e-20
"""Variance over energy below which equal tokens differ by the rounding of their mean alone."""


def leading_ratio(hidden: Tensor) -> float:
    """Share of the leading principal components in the variance of [N, C] tokens.

    Eigenvalues of the Gram matrix of the smaller side are the squared singular values; an N x C
    decomposition is never needed. A single token has no variance and counts as fully explained.
    """
    centred = hidden.double() - hidden.double().mean(0)
    tokens, channels = centred.shape
    gram = centred @ centred.T if tokens <= channels else centred.T @ centred
    eigenvalues = torch.linalg.eigvalsh(gram).clamp_min(0)
    total = eigenvalues.sum().item()
    if total <= _NO_VARIANCE * hidden.double().square().sum().item():
        return 1.0
    leading = max(1, round(LEADING_SHARE * len(eigenvalues)))
    return min(eigenvalues[-leading:].sum().item() / total, 1.0)
