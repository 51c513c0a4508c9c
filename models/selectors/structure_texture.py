"""Ranks by texture and structure of the scale's input: what stands out from its neighbours, or bears the pattern.

An interpretation of StepVAR (arXiv 2603.01757): neither the paper's text nor code was available, only an abstract
that names a light high-pass filter for texture, principal components for structure, and both joined. Everything
below is inferred.

- tensor: the residual stream before the first layer, of the conditional row;
- texture: t_i = ||x_i - mean of the 3 x 3 tokens around i, of those that exist||;
- structure: p_i = sum_k (x_i . v_k)^2, x less the mean token, v_k the 4 leading eigenvectors of its C x C Gram matrix
  by 8 power iterations each, deflated one by one. The iterations start from fixed numbers and need no decomposition,
  so that every engine can run them;
- joined: the sum of both ranks, so that no constant weighs one against the other; the largest come first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from toprovar.models.selectors.base import Selector
from toprovar.models.tokens import ascending

__all__ = ["SELECTOR", "structure", "texture"]

_COMPONENTS = 4
_ITERATIONS = 8


class _StructureTexture(Selector):
    def at_start(self, x: Tensor) -> Tensor:
        height = self.given["carry_rows"].shape[1]
        ranks = _ranks(texture(x, height)) + _ranks(structure(x))
        return -ranks.to(torch.float32)


def texture(x: Tensor, height: int) -> Tensor:
    """High-pass magnitude of tokens [B, L, C] on a grid of `height` rows, [B, L]."""
    grid = x.transpose(1, 2).unflatten(2, (height, -1))
    smooth = F.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)
    return (grid - smooth).square().sum(1).sqrt().flatten(1)


def structure(x: Tensor) -> Tensor:
    """Energy of tokens [B, L, C] in the leading principal components, [B, L]."""
    x = x - x.mean(1, keepdim=True)
    gram = x.transpose(1, 2) @ x / x.shape[1]
    start = torch.arange(x.shape[2], device=x.device).to(x.dtype).cos().unsqueeze(1)
    energy = torch.zeros_like(x[:, :, 0])
    for _ in range(_COMPONENTS):
        vector = start
        for _ in range(_ITERATIONS):
            vector = F.normalize(gram @ vector, dim=1)
        energy = energy + (x @ vector).square().squeeze(2)
        gram = gram - (vector.transpose(1, 2) @ gram @ vector) * (vector @ vector.transpose(1, 2))
    return energy


def _ranks(values: Tensor) -> Tensor:
    """Place of every value in ascending order, [B, L]."""
    return ascending(ascending(values))


SELECTOR = _StructureTexture
