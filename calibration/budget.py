"""Meets a FLOP budget by one free parameter."""

from __future__ import annotations

import math
from collections.abc import Callable

from toprovar.errors import UsageError

__all__ = ["out_of_reach", "weakest"]

_HALVINGS = 40


def weakest(cost: Callable[[float], float], strongest: float, target: float) -> float | None:
    """The smallest strength from 0 to `strongest` whose cost is at most the target; None if there is none.

    Args:
        cost: share of dense FLOPs at a strength; does not rise with it.
        strongest: largest strength to consider.
        target: share of dense FLOPs.
    """
    if cost(0.0) <= target:
        return 0.0
    if cost(strongest) > target:
        return None
    low, high = 0.0, strongest
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if cost(middle) > target:
            low = middle
        else:
            high = middle
    return high


def out_of_reach(target: float, reached: float, why: str) -> UsageError:
    """The error for a target below what a policy reaches.

    Args:
        target: share of dense FLOPs.
        reached: the smallest share that the policy reaches.
        why: what that takes, to go before "down to ...".
    """
    # Up, so that what is offered can be had.
    offered = math.ceil(reached * 100 - 1e-9) / 100
    return UsageError(
        f"a target of {target:.0%} of dense FLOPs is out of reach; {why} down to {reached:.0%}",
        f"give --target-flops {offered:.2f} or more",
    )
