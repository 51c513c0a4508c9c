"""The interface of a statistic: one number for every image, measured at one scale."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from toprovar.plan import DepthRule
from toprovar.runtime.backends.base import Backend, State

__all__ = ["SeenScale", "Statistic"]


@dataclass(frozen=True)
class SeenScale:
    """One scale that has run, for B images.

    Attributes:
        backend: what it ran on.
        before: the state that it began with.
        after: the state that it left.
        entropy: standardised entropy float32 [B, L]; None where nothing was observed.
    """

    backend: Backend
    before: State
    after: State
    entropy: np.ndarray | None


class Statistic(ABC):
    """Measures a scale.

    Args:
        rule: what is decided by it.

    Attributes:
        needs_entropy: the scale has to be observed.
        largest: bound of its values, which are never below 0.
    """

    needs_entropy: bool = False
    largest: float = math.inf

    def __init__(self, rule: DepthRule) -> None:
        self.rule = rule

    @abstractmethod
    def measure(self, seen: SeenScale) -> np.ndarray:
        """The statistic of every image, [B]."""

    @abstractmethod
    def words(self) -> str:
        """What it is, to follow upon "decided by r, "."""
