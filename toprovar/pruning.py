"""What a plan fixes in its graphs: everything of pruning that cannot change without another export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ENTROPY_SELECTORS", "Pruning", "Restoration", "Unconditional"]

Restoration = Literal["identity", "cached", "blank"]
"""What becomes of a token that a layer does not compute.

``identity``: its residual stream passes through. ``cached``: it gets the update that the layer made at the latest
dense scale, resized to the grid. ``blank``: it passes through, and if no layer computes it, it adds no codes."""

Unconditional = Literal["full", "reused", "omitted"]
"""What the unconditional half of a guidance batch does at a scale.

``full``: the same as the conditional half. ``reused``: nothing; the difference between the halves' logits is taken
over from the latest full scale, resized. ``omitted``: nothing; the conditional logits stand without guidance."""

ENTROPY_SELECTORS = ("previous_scale", "own_scale", "both_scales")
"""The selectors that rank by attention entropy, and so need observer layers."""


@dataclass(frozen=True)
class Pruning:
    """How the adaptive graph of a plan prunes.

    Attributes:
        selector: what ranks the tokens: a file of `toprovar.models.selectors`, or ``none``.
        observers: layers whose attention entropy is measured, ascending.
        restoration: what becomes of tokens that are not computed.
        reuses_guidance: the graphs hand on the difference that guidance extrapolates.
    """

    selector: str = "none"
    observers: tuple[int, ...] = ()
    restoration: Restoration = "identity"
    reuses_guidance: bool = False

    @property
    def needs_previous_scale(self) -> bool:
        """Whether a pruned scale may read what the adaptive graph measured at the scale before."""
        return self.selector != "none" or self.restoration == "cached"
