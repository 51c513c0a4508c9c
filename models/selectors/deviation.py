"""Ranks before every layer by the distance from the scale's mean token: what differs most comes first.

FastVAR (arXiv 2503.23367; csguoh/FastVAR at 34cdd65): score of token i = sum_c (x_ic - mean_j x_jc)^2, with x the
residual stream before the norm and j over the tokens of the scale; the largest are kept.

Deviations:
- one ranking a layer, before its self-attention (published: one before each of its three sub-layers);
- the conditional row ranks for both rows of a guidance pair (published: each row for itself).
"""

from __future__ import annotations

from torch import Tensor

from toprovar.models.selectors.base import Selector

__all__ = ["SELECTOR"]


class _Deviation(Selector):
    def before_layer(self, layer: int, x: Tensor) -> Tensor:
        return -(x - x.mean(1, keepdim=True)).square().sum(2)


SELECTOR = _Deviation
