"""SparseVAR (arXiv 2507.20454, ICCV 2025): leaves out tokens that the middle of the network hardly changes.

Published, by the implementation that docs/peers.md names: the last three of 13 scales run sparse in all layers;
tokens are ranked by the mean squared change across the fourth eighth of the layers at the scale before
(`toprovar.models.selectors.chunk_change`), anchors on a grid of step 4 are always kept, and excluded tokens take the
final hidden state of an anchor whose logits resemble theirs with a cosine above 0.8, or add no codes
(`toprovar.models.restorations.anchor`).

Deviations:
- a scale keeps a fixed count (published: the tokens with D / max D above 0.6, as many as there are); the share is
  the free parameter that meets the target, and the order is the one that the threshold cuts;
- scales are counted from the last (published: sides 40, 48 and 64);
- counts are multiples of 8 (published: any).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from toprovar.anchors import ANCHOR_SIMILARITY, ANCHOR_STEP, anchor_count
from toprovar.calibration.counts import MULTIPLE
from toprovar.calibration.policies._equal_share import EqualShare
from toprovar.pruning import Restoration

__all__ = ["POLICY", "SparseVAR"]


@dataclass(frozen=True)
class SparseVAR(EqualShare):
    """Fields as of `EqualShare`; anchors alone are the least that a scale keeps."""

    restoration: Restoration = "anchor"

    @property
    def name(self) -> str:
        """Name of the policy."""
        return "sparsevar"

    @property
    def selector(self) -> str:
        """The measured change."""
        return "chunk_change"

    def least(self, height: int, width: int) -> int:
        """The anchors, rounded up."""
        anchors = anchor_count(height) * anchor_count(width)
        return -(-anchors // MULTIPLE) * MULTIPLE

    def constants(self) -> Mapping[str, bool | int | float | str]:
        """The anchors' numbers, which the graphs hold."""
        return {"anchor_step": ANCHOR_STEP, "anchor_similarity": ANCHOR_SIMILARITY}


POLICY = SparseVAR()
