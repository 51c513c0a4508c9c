"""The residual stream passes through."""

from __future__ import annotations

from toprovar.models.restorations.base import Restoration

__all__ = ["RESTORATION"]

RESTORATION = Restoration
