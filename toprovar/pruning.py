"""What a plan fixes in its graphs: everything of pruning that cannot change without another export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ENTROPY_SELECTORS", "Pruning", "Restoration", "Unconditional"]

Restoration = str
"""What becomes of a token that a layer does not compute: a file of `toprovar.models.restorations`."""

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
        restoration: what becomes of tokens that are not computed (a file of `toprovar.models.restorations`).
        reuses_guidance: the graphs hand on the difference that guidance extrapolates.
    """

    selector: str = "none"
    observers: tuple[int, ...] = ()
    restoration: Restoration = "identity"
    reuses_guidance: bool = False

    @property
    def needs_previous_scale(self) -> bool:
        """Whether a pruned scale may read what the adaptive graph measured at the scale before."""
        return self.selector != "none" or self.caches_updates or self.carries_logits

    @property
    def caches_updates(self) -> bool:
        """Whether the adaptive graph hands on what each layer added to the residual stream."""
        return self.restoration == "cached"

    @property
    def carries_logits(self) -> bool:
        """Whether the adaptive graph hands on the logits that it sampled from."""
        return self.restoration == "anchor"
