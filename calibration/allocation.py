"""Divides a budget among independent choices, each with a curve of damage over cost.

`allocate` follows convex hulls and may stop between two points; `pick` takes one point of each curve, whatever its
shape, which a curve needs whose points are no better in between.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PICK_UNITS", "Choice", "allocate", "lower_hull", "pick"]

PICK_UNITS = 1024
"""Parts of the budget that `pick` rounds costs to."""


@dataclass(frozen=True)
class Choice:
    """One point of a curve.

    Attributes:
        cost: what it costs.
        damage: what it loses against the dearest point.
        kept: share of tokens that it stands for.
    """

    cost: float
    damage: float
    kept: float


def lower_hull(curve: Sequence[Choice]) -> list[Choice]:
    """The points of a curve that are best for some price, from the dearest to the cheapest.

    A point above the line between two others is never worth its cost, and one that is cheaper and no worse makes
    another useless.
    """
    hull: list[Choice] = []
    for point in sorted(curve, key=lambda one: (one.cost, one.damage)):
        if hull and point.damage >= hull[-1].damage:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull[::-1]


def allocate(curves: Sequence[Sequence[Choice]], budget: float) -> list[float]:
    """The kept share of each choice with the least total damage within the budget.

    On convex curves that add up, taking the step that loses least for what it saves is optimal; damage between two
    points is taken as linear, so the last step is taken in part.

    Args:
        curves: points of each choice.
        budget: total cost allowed.

    Returns:
        Kept shares; those of the cheapest points where even they cost more than the budget.
    """
    hulls = [lower_hull(curve) for curve in curves]
    shares = [hull[0].kept for hull in hulls]
    excess = sum(hull[0].cost for hull in hulls) - budget
    steps = [
        (_price(before, after), index, place)
        for index, hull in enumerate(hulls)
        for place, (before, after) in enumerate(itertools.pairwise(hull))
    ]
    for _, index, place in sorted(steps):
        if excess <= 0:
            break
        before, after = hulls[index][place], hulls[index][place + 1]
        saved = before.cost - after.cost
        if excess < saved:
            # The end, whatever rounding leaves of the excess: later steps must not be begun.
            shares[index] = before.kept + excess / saved * (after.kept - before.kept)
            break
        shares[index] = after.kept
        excess -= saved
    return shares


def pick(curves: Sequence[Sequence[Choice]], budget: float) -> list[int]:
    """One point of each curve: the least total damage within the budget, by dynamic programming.

    Costs are rounded to parts of the budget (`PICK_UNITS`), so that it may be overdrawn by half a part a curve.

    Args:
        curves: points of each choice.
        budget: total cost allowed.

    Returns:
        Indices of the points; those of the cheapest where even they cost more than the budget.
    """
    unit = max(budget, 0.0) / PICK_UNITS
    # best[b]: least damage of the curves so far with b units at most.
    best = np.zeros(PICK_UNITS + 1)
    taken = []
    for curve in curves:
        offers = np.full((len(curve), PICK_UNITS + 1), np.inf)
        for place, point in enumerate(curve):
            units = _units(point, unit)
            if units <= PICK_UNITS:
                offers[place, units:] = best[: PICK_UNITS + 1 - units] + point.damage
        taken.append((offers.argmin(0), curve))
        best = offers.min(0)
    if not math.isfinite(best[-1]):
        return [min(range(len(curve)), key=lambda place: _frugality(curve[place])) for curve in curves]
    left, picked = PICK_UNITS, []
    for places, curve in reversed(taken):
        picked.append(int(places[left]))
        left -= _units(curve[picked[-1]], unit)
    return picked[::-1]


def _units(point: Choice, unit: float) -> int:
    if not point.cost:
        return 0
    return min(round(point.cost / unit), PICK_UNITS + 1) if unit > 0 else PICK_UNITS + 1


def _frugality(point: Choice) -> tuple[float, float]:
    return point.cost, point.damage


def _slope(cheap: Choice, dear: Choice) -> float:
    return (dear.damage - cheap.damage) / (dear.cost - cheap.cost)


def _price(before: Choice, after: Choice) -> float:
    """Damage for each unit of cost saved."""
    return (after.damage - before.damage) / (before.cost - after.cost)
