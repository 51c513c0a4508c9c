"""Dividing a budget: against trying everything."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toprovar.calibration.allocation import PICK_UNITS, Choice, allocate, lower_hull, pick
from toprovar.calibration.counts import rounded_count

POINTS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=4)
CURVES = st.lists(POINTS, min_size=1, max_size=4)


def curve(points: list[tuple[int, int]]) -> list[Choice]:
    return [Choice(float(cost), float(damage), cost / 20) for cost, damage in points]


def at(hull: list[Choice], kept: float) -> tuple[float, float]:
    """Cost and damage of a kept share, which the hull's points give linearly."""
    for before, after in itertools.pairwise(hull):
        if after.kept - 1e-9 <= kept <= before.kept + 1e-9:
            part = (before.kept - kept) / (before.kept - after.kept)
            return (
                before.cost + part * (after.cost - before.cost),
                before.damage + part * (after.damage - before.damage),
            )
    assert kept == pytest.approx(hull[0].kept)
    return hull[0].cost, hull[0].damage


@given(POINTS)
def test_a_hull_is_convex_and_holds_what_is_best_for_some_price(points: list[tuple[int, int]]) -> None:
    choices = curve(points)
    hull = lower_hull(choices)
    assert set(hull) <= set(choices)
    slopes = [(b.damage - a.damage) / (a.cost - b.cost) for a, b in itertools.pairwise(hull)]
    assert all(slope > 0 for slope in slopes)
    assert slopes == sorted(slopes)
    for price in (0.0, 0.3, 1.0, 4.0):
        best = min(one.damage + price * one.cost for one in choices)
        assert min(one.damage + price * one.cost for one in hull) == pytest.approx(best)


@given(CURVES, st.integers(0, 80))
def test_no_choice_of_points_within_the_budget_does_less_damage(
    points: list[list[tuple[int, int]]], budget: int
) -> None:
    curves = [curve(own) for own in points]
    hulls = [lower_hull(own) for own in curves]
    shares = allocate(curves, budget)
    made = [at(hull, share) for hull, share in zip(hulls, shares, strict=True)]
    cost, damage = (sum(column) for column in zip(*made, strict=True))
    cheapest = sum(hull[-1].cost for hull in hulls)
    assert cost <= max(budget, cheapest) + 1e-9
    for picked in itertools.product(*curves):
        if sum(one.cost for one in picked) <= budget:
            assert damage <= sum(one.damage for one in picked) + 1e-9


def test_the_last_step_is_taken_in_part() -> None:
    steep = [Choice(4, 0, 1.0), Choice(0, 8, 0.0)]
    flat = [Choice(4, 0, 1.0), Choice(2, 1, 0.5), Choice(0, 6, 0.0)]
    assert allocate([steep, flat], 8) == [1.0, 1.0]
    assert allocate([steep, flat], 7) == [1.0, 0.75]
    assert allocate([steep, flat], 5) == [0.75, 0.5]
    assert allocate([steep, flat], -1) == [0.0, 0.0]


def test_an_excess_of_one_rounding_takes_no_step() -> None:
    curves = [[Choice(0.1 + layer, 0, 1.0), Choice(layer, 1, 0.5), Choice(0, 9, 0.0)] for layer in range(1, 9)]
    dense = sum(curve[0].cost for curve in curves)
    assert allocate(curves, dense * (1 - 1e-16)) == pytest.approx([1.0] * 8)
    assert allocate(curves, dense * (1 - 3e-16)) == pytest.approx([1.0] * 8)


@pytest.mark.parametrize(
    ("exact", "tokens", "count"),
    [
        (0, 64, 0),
        (3, 64, 0),
        (5, 64, 8),
        (11, 64, 8),
        (13, 64, 16),
        (62, 64, 64),
        (34, 36, 36),
        (31, 36, 32),
        (0.6, 1, 1),
        (0.4, 1, 0),
        (2, 4, 4),
        (1.9, 4, 0),
    ],
)
def test_counts(exact: float, tokens: int, count: int) -> None:
    assert rounded_count(exact, tokens) == count


@given(CURVES, st.integers(0, 80))
def test_no_other_pick_within_the_budget_does_less_damage(points: list[list[tuple[int, int]]], budget: int) -> None:
    curves = [curve(own) for own in points]
    places = pick(curves, budget)
    picked = [own[place] for own, place in zip(curves, places, strict=True)]
    cost, damage = sum(one.cost for one in picked), sum(one.damage for one in picked)
    margin = budget * len(curves) / 2 / PICK_UNITS
    within = [one for one in itertools.product(*curves) if sum(part.cost for part in one) <= budget - margin]
    if within:
        assert cost <= budget + margin
        assert damage <= min(sum(part.damage for part in one) for one in within)
    elif cost > budget + margin:
        assert cost == sum(min(one.cost for one in own) for own in curves)


def test_a_curve_that_is_not_convex_is_not_cut_short() -> None:
    """A point above the line between two others is skipped, and nothing between them is taken for it."""
    uneven = [Choice(10, 0, 1.0), Choice(5, 9, 0.5), Choice(0, 10, 0.0)]
    steady = [Choice(10, 0, 1.0), Choice(5, 3, 0.5), Choice(0, 8, 0.0)]
    assert pick([uneven, steady], 15) == [0, 1]
    assert pick([uneven, steady], 10) == [0, 2]
    assert pick([uneven, steady], 6) == [2, 1]
