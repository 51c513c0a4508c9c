from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from toprovar.plan import SparsityPlan
from toprovar.runtime.session import GeneratedImage, Generation
from toprovar.studies.laboratory import Laboratory
from toprovar.studies.overhead import Lap, analysis, blind, rows_of, words


@pytest.fixture
def plan(laboratory: Laboratory) -> SparsityPlan:
    """Pruned from scale 4 or 5 on, decided after scale 3, counted from 0."""
    made = laboratory.plan(laboratory.policy("toprovar"), 0.5)
    scales = (
        dataclasses.replace(one, kept=(one.tokens // 2 if index > 3 else one.tokens,) * made.layers)
        for index, one in enumerate(made.scales)
    )
    return dataclasses.replace(made, scales=tuple(scales))


def generation(seconds: float, scales: float, host: float = 0.0) -> Generation:
    image = GeneratedImage(None, "", 0, 5, None, (), np.zeros(0))  # type: ignore[arg-type]
    return Generation((image,), seconds, (scales,) * 7, host)


def made_up(blind: float, sparse: float = 5.0) -> list[Lap]:
    return [Lap(generation(10.0, 1.0), generation(blind, 0.45), generation(sparse, 0.5, host=0.05)) for _ in range(5)]


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
    share = analysis(made_up(4.9))
    assert (share.mean, share.low, share.high) == pytest.approx((0.02, 0.02, 0.02))


def test_rows_and_words(plan: SparsityPlan) -> None:
    rows = rows_of(plan, made_up(4.5))
    assert [row["scale"] for row in rows] == [*map(str, range(1, 8)), "text, decoding", "whole image"]
    assert (rows[0]["dense, ms"], rows[0]["tokens at random, ms"], rows[0]["plan, ms"]) == (1000, 450, 500)
    assert rows[-2]["dense, ms"] == 3000
    assert rows[-1]["times faster"] == 2
    assert (rows[-1]["analysis"], rows[-1]["ranking and rule on the host, ms"]) == (0.1, 50)
    assert words(made_up(4.5)).startswith(
        "No: the analysis takes 10.0% [10.0%, 10.0%] of a sparse generation, 50.00 ms"
    )
    assert "Net speed-up, all of it paid: 2.00 times" in words(made_up(4.5))
    assert words(made_up(4.95)).startswith("Yes: the analysis takes 1.0%")
    assert "No gain, all of it paid: 0.91 times" in words(made_up(11.0, sparse=11.0))
