"""Before the head, a token that was not computed takes the hidden state of an anchor that resembles it.

SparseVAR (arXiv 2507.20454), by the implementation that docs/peers.md names: of a token's 4 spatially nearest
anchors (`toprovar.anchors`), that with the highest cosine similarity of the previous scale's guided logits stands for
it if the similarity is above 0.8; a token that no anchor stands for keeps its input and adds no codes.

Deviations:
- logits are carried over to the grid bilinearly (published: nearest), as everything is that a scale hands on;
- anchors that are as near as the fourth all count (published: the first four);
- codes are left out for every image and model (published: for one image of 32 bits).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from toprovar.anchors import ANCHOR_SIMILARITY
from toprovar.models.grid import anchors, places, square_distances
from toprovar.models.restorations.base import Restoration, computed
from toprovar.models.tokens import SortedTokens, take

__all__ = ["RESTORATION"]

_NEAR = 4
"""Anchors that may stand for a token."""


class _Anchor(Restoration):
    def __init__(self, given: Mapping[str, Tensor]) -> None:
        super().__init__(given)
        self._drawn = torch.ones_like(given["prior"])

    def finish(self, tokens: SortedTokens) -> SortedTokens:
        similarity, anchor = _best_anchors(self.given)
        own = torch.arange(anchor.shape[1], device=anchor.device).expand_as(anchor)
        place_of_anchor = tokens.token_values(own).gather(1, anchor)
        resembles = tokens.sorted_values(similarity) > ANCHOR_SIMILARITY
        known = computed(self.given, tokens)
        source = torch.where(known | ~resembles, own, tokens.sorted_values(place_of_anchor))
        self._drawn = (known | resembles).to(self._drawn.dtype)
        return replace(tokens, x=take(tokens.x, source[tokens.image_of_row]))

    def drawn(self, tokens: SortedTokens) -> Tensor:
        return tokens.token_values(self._drawn)


def _best_anchors(given: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """For every token the highest similarity to a near anchor, and that anchor's position, [B, L] in token order."""
    logits = F.normalize(given["carried_logits"].flatten(2), dim=-1)
    anchor, place = anchors(given), places(given)
    similarity = logits @ logits[:, anchor].transpose(1, 2)
    distances = square_distances(place, place[anchor])
    # Padded, since a small grid has fewer anchors than are asked for.
    nearest = F.pad(distances, (0, _NEAR), value=torch.inf).topk(_NEAR, dim=1, largest=False).values
    best = torch.where(distances <= nearest[:, -1:], similarity, -torch.inf).max(2)
    return best.values, anchor[best.indices]


RESTORATION = _Anchor
