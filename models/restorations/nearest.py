"""Before the head, a token that was not computed takes the hidden state of the nearest one that was.

StepVAR (arXiv 2603.01757) rebuilds its maps by nearest-neighbour propagation; its text was not available, so the
rest is an interpretation: distances are Euclidean on the scale's own grid, of equally near tokens the one that
ranks highest is taken, and what is propagated is the final hidden state. "Computed" is meant by the layer that
keeps most tokens; where one keeps all of them, nothing is left to propagate.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from toprovar.models.grid import places, square_distances
from toprovar.models.restorations.base import Restoration, computed
from toprovar.models.tokens import SortedTokens, take

__all__ = ["RESTORATION"]


class _Nearest(Restoration):
    def finish(self, tokens: SortedTokens) -> SortedTokens:
        own = torch.arange(tokens.x.shape[1], device=tokens.x.device).expand_as(self.given["prior"])
        place = places(self.given)[tokens.sorted_values(own)]
        distances = square_distances(place, place)
        # The first of equals is the nearest to the front of the order.
        source = torch.where(computed(self.given, tokens), distances, torch.inf).argmin(2)
        return replace(tokens, x=take(tokens.x, source[tokens.image_of_row]))


RESTORATION = _Nearest
