from __future__ import annotations

import dataclasses

import pytest

from toprovar.plan import SparsityPlan
from toprovar.runtime.session import Generation
from toprovar.studies.laboratory import Laboratory
from toprovar.studies.overhead import Lap, Taken, analysis, blind, rows_of, words


@pytest.fixture
def plan(laboratory: Laboratory) -> SparsityPlan:
    """Pruned from scale 4 or 5 on, decided after scale 3, counted from 0."""
    made = laboratory.plan(laboratory.policy("toprovar"), 0.5)
    scales = (
        dataclasses.replace(one, kept=(one.tokens // 2 if index > 3 else one.tokens,) * made.layers)
        for index, one in enumerate(made.scales)
    )
    return dataclasses.replace(made, scales=tuple(scales))


def taken(scales: float, host: float = 0.0) -> Taken:
    """Seven scales, and as much time for text and decoding as for three dense ones."""
    return Taken(7 * scales + 3, (scales,) * 7, host)


def made_up(blind: float, sparse: float = 0.5) -> list[Lap]:
    return [Lap(taken(1.0), taken(blind), taken(sparse, host=0.05)) for _ in range(5)]


def test_a_blind_twin_computes_as_much_and_observes_nothing(plan: SparsityPlan) -> None:
    assert plan.depth_rule is not None
    for depth in plan.depth_rule.depths:
        twin = blind(plan, depth)
        assert twin.ranking.observers == ()
        assert twin.depth_rule is None
        for scale in range(len(plan.scales)):
            assert twin.kept(scale, 0) == plan.kept(scale, depth)
            assert twin.unconditional(scale, 0) == plan.unconditional(scale, depth)


def test_analysis_is_what_the_plan_takes_longer_than_its_blind_twin() -> None:
    share = analysis(made_up(0.49))
    assert (share.mean, share.low, share.high) == pytest.approx((0.07 / 6.5,) * 3)


def test_a_generation_is_the_mean_of_its_laps() -> None:
    laps = Generation((), 4.0, (1.0, 2.0), 0.5), Generation((), 6.0, (2.0, 2.0), 0.1)
    assert Taken.by(*laps) == Taken(5.0, (1.5, 2.0), 0.3)


def test_rows_and_words(plan: SparsityPlan) -> None:
    rows = rows_of(plan, made_up(0.45))
    assert [row["scale"] for row in rows] == [*map(str, range(1, 8)), "text, decoding", "whole image"]
    assert (rows[0]["dense, ms"], rows[0]["tokens at random, ms"], rows[0]["plan, ms"]) == (1000, 450, 500)
    assert rows[-2]["dense, ms"] == 3000
    assert rows[-1]["times faster"] == 1.538
    assert (rows[-1]["analysis"], rows[-1]["ranking and rule on the host, ms"]) == (0.0538, 50)
    assert words(made_up(0.45)).startswith("No: the analysis takes 5.4% [5.4%, 5.4%] of a sparse generation, 50.00 ms")
    assert "Net speed-up, all of it paid: 1.54 times" in words(made_up(0.45))
    assert words(made_up(0.495)).startswith("Yes: the analysis takes 0.5%")
    assert "No gain, all of it paid: 0.91 times" in words(made_up(8 / 7, sparse=8 / 7))
