"""Ranks by the attention entropy of the scale before, resized: the focused tokens come first."""

from __future__ import annotations

from toprovar.models.selectors.base import Selector

__all__ = ["SELECTOR"]

# The host sorts by what was carried over, so that there is nothing left to do.
SELECTOR = Selector
