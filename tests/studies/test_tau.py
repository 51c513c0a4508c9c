from __future__ import annotations

import dataclasses

import pytest

from toprovar.errors import UsageError
from toprovar.plan import DepthRule
from toprovar.studies.laboratory import Laboratory, Outcome, Run
from toprovar.studies.tau import LOW_BELOW, NOTHING, THRESHOLDS, row_of, scaled, words


def run(passed: list[bool], psnr: float = 20.0, flops: float = 0.4) -> Run:
    return Run("x", tuple(Outcome(one, "texture", psnr, 1.0, 0.0, flops, 4) for one in passed))


def test_one_part_is_scaled_and_the_rest_stays(laboratory: Laboratory) -> None:
    plan = laboratory.plan(laboratory.policy("toprovar"), 0.5)
    rule = DepthRule("low_entropy_ratio", 3, -0.5, (0.2,), (4, 5))
    plan = dataclasses.replace(plan, depth_rule=rule)
    assert scaled(plan, THRESHOLDS, 2).depth_rule == dataclasses.replace(rule, thresholds=(0.4,))
    assert scaled(plan, LOW_BELOW, 2).depth_rule == dataclasses.replace(rule, low_below=-1.0)
    assert dataclasses.replace(scaled(plan, LOW_BELOW, 2), depth_rule=rule) == plan
    with pytest.raises(UsageError, match="decides no depth by entropy"):
        scaled(dataclasses.replace(plan, depth_rule=None), THRESHOLDS, 2)


def test_the_score_moves_by_what_changed(laboratory: Laboratory) -> None:
    plan = laboratory.plan(laboratory.policy("toprovar"), 0.5)
    plan = dataclasses.replace(plan, depth_rule=DepthRule("low_entropy_ratio", 3, -0.5, (0.2,), (4, 5)))
    fitted, worse, dense = run([True] * 8 + [False] * 2), run([True] * 6 + [False] * 4, 19.0, 0.3), run([True] * 10)
    rows = [
        row_of(NOTHING, 1.0, plan, fitted, fitted, dense),
        row_of(THRESHOLDS, 2.0, scaled(plan, THRESHOLDS, 2), worse, fitted, dense),
        row_of(LOW_BELOW, 2.0, scaled(plan, LOW_BELOW, 2), fitted, fitted, dense),
    ]
    assert rows[1]["score against fitted"] == pytest.approx(-0.2)
    assert rows[1]["PSNR against fitted, dB"] == -1
    assert rows[1]["thresholds"] == "0.4"
    assert words(rows).startswith("Yes, the score moves: by 0.200 at most (thresholds times 2.0")
    assert "from 30% to 40%" in words(rows)
    still = words([rows[0], rows[2]])
    assert still.startswith("No, the score hardly moves: by 0.000")


def test_a_rule_without_thresholds_cannot_be_scaled() -> None:
    assert words([{"scaled": NOTHING, "thresholds": ""}]).startswith("Nothing to scale")


def test_wide_intervals_are_said() -> None:
    row = {"tau": 1.0, "thresholds": "0.2", "FLOPs": 0.4, "prompts": 12, "score against fitted": 0.0}
    rows = [{**row, "scaled": name, "from": -reach, "to": reach} for name, reach in ((NOTHING, 0.0), (THRESHOLDS, 0.1))]
    assert "12 prompts cannot exclude more than 0.02" in words(rows)
