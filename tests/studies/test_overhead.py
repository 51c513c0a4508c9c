from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from toprovar.plan import SparsityPlan
from toprovar.runtime.session import GeneratedImage, Generation
from toprovar.studies.laboratory import Laboratory
from toprovar.studies.overhead import Lap, analysis, rows_of, watched_scales, words


@pytest.fixture
def plan(laboratory: Laboratory) -> SparsityPlan:
    """Pruned from scale 4 or 5 on, decided after scale 3, counted from 0; observers keep half at scale 6."""
    made = laboratory.plan(laboratory.policy("toprovar"), 0.5)
    scales = (
        dataclasses.replace(one, kept=(one.tokens // 2 if index > 3 else one.tokens,) * made.layers)
        for index, one in enumerate(made.scales)
    )
    return dataclasses.replace(made, scales=tuple(scales))


def generation(depth: int, seconds: float, scales: float, host: float = 0.0) -> Generation:
    image = GeneratedImage(None, "", 0, depth, None, (), np.zeros(0))  # type: ignore[arg-type]
    return Generation((image,), seconds, (scales,) * 7, host)


def test_watched_scales(plan: SparsityPlan) -> None:
    assert plan.depth_rule is not None
    assert plan.depth_rule.decided_after == 3
    assert watched_scales(plan, 4) == {3, 4, 5, 6}
    assert watched_scales(plan, 6) == {3, 5, 6}
    without = dataclasses.replace(plan, depth_rule=None)
    assert watched_scales(without, 6) == {5, 6}
    assert watched_scales(without, 7) == set()


def test_analysis_is_the_hosts_and_what_watching_adds(plan: SparsityPlan) -> None:
    laps = [Lap(generation(7, 10.0, 1.0), (1.1,) * 7, generation(6, 5.0, 0.5, host=0.05)) for _ in range(5)]
    # scales 3, 5 and 6 are watched, each 0.1 s longer; at 6, half of the tokens are observed
    assert analysis(plan, laps) == pytest.approx([0.35] * 5)
    assert analysis(plan, laps, least=True) == pytest.approx([0.30] * 5)


def test_rows_and_words(plan: SparsityPlan) -> None:
    laps = [Lap(generation(7, 10.0, 1.0), (1.1,) * 7, generation(6, 5.0, 0.5, host=0.05)) for _ in range(5)]
    rows = rows_of(plan, laps)
    assert [row["scale"] for row in rows] == [*map(str, range(1, 8)), "text, decoding", "whole image"]
    assert rows[0]["dense, ms"] == 1000
    assert rows[0]["observing and sorting, ms"] == 100
    assert [row["share of images that observe"] for row in rows[:7]] == [0, 0, 0, 1, 0, 1, 1]
    assert rows[-2]["dense, ms"] == 3000
    assert rows[-1]["times faster"] == 2
    assert (rows[-1]["analysis, at least"], rows[-1]["analysis, at most"]) == (0.06, 0.07)
    assert words(plan, laps).startswith("No: the analysis takes from 6.0% [6.0%, 6.0%] to 7.0%")
    assert "Net speed-up, all of it paid: 2.00 times" in words(plan, laps)
    cheap = [Lap(one.dense, (1.0,) * 7, generation(6, 5.0, 0.5, host=0.05)) for one in laps]
    assert words(plan, cheap).startswith("Yes: the analysis takes from 1.0%")
    slow = [Lap(one.dense, (1.0,) * 7, generation(6, 11.0, 0.5, host=0.05)) for one in laps]
    assert "No gain, all of it paid: 0.91 times" in words(plan, slow)
