"""SkipVAR's thresholds, fitted and given."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from toprovar.calibration.policies.skipvar import POLICY, PUBLISHED_THRESHOLDS, SkipVAR
from toprovar.errors import UsageError
from toprovar.plan import SparsityPlan
from toprovar.stats import CalibrationStats

from ..made_up import make_stats, make_task


def depths(plan: SparsityPlan, stats: CalibrationStats) -> list[int]:
    """By prompt, from the lowest to the highest change."""
    assert plan.depth_rule is not None
    values = sorted(prompt.high_frequency[plan.depth_rule.decided_after] for prompt in stats.prompts)
    return [plan.depth_rule.depth(value) for value in values]


def with_values(*values: float) -> CalibrationStats:
    stats = make_stats(prompts=len(values))
    prompts = (
        dataclasses.replace(prompt, high_frequency=(value,) * 10)
        for prompt, value in zip(stats.prompts, values, strict=True)
    )
    return dataclasses.replace(stats, prompts=tuple(prompts))


@pytest.mark.parametrize("target", [0.15, 0.3, 0.5, 0.6, 0.8, 0.95])
def test_the_settled_picture_is_spared_more(target: float) -> None:
    stats = make_stats()
    plan = POLICY(stats, make_task(target))
    assert plan.depth_rule is not None
    assert (plan.depth_rule.statistic, plan.depth_rule.decided_after) == ("high_frequency", 6)
    chosen = depths(plan, stats)
    assert chosen == sorted(chosen)
    assert set(chosen) <= {7, 8, 9, 10}


def test_replacing_where_it_suffices_and_stopping_early_below() -> None:
    stats = make_stats()
    replacing, stopping = POLICY(stats, make_task(0.58)), POLICY(stats, make_task(0.56))
    assert [scale.unconditional for scale in replacing.scales] == ["full"] * 7 + ["omitted"] * 3
    assert all(scale.is_dense for scale in replacing.scales)
    assert replacing.cost.ratio == pytest.approx(0.57, abs=0.005)
    assert all(scale.unconditional == "full" for scale in stopping.scales)
    assert [set(scale.kept) for scale in stopping.scales[-3:]] == [{0}] * 3
    assert stopping.cost.ratio == pytest.approx(0.13, abs=0.01)
    assert SkipVAR(mode="skip")(stats, make_task(0.9)).parameters["mode"] == "skip"
    with pytest.raises(UsageError, match=r"give --target-flops 0\.57 or more"):
        SkipVAR(mode="replace")(stats, make_task(0.5))


def test_without_a_shift_prompts_are_parted_as_the_published_model_parts_its_own() -> None:
    """Of a normal distribution 35 % lie below the first threshold, 16 % between the next, 24 and 25 % above."""
    stats = make_stats()
    costs = {3: 0.13, 2: 0.26, 1: 0.48, 0: 1.0}
    expected = 0.35 * costs[3] + 0.16 * costs[2] + 0.24 * costs[1] + 0.25 * costs[0]
    plan = SkipVAR(mode="skip")(stats, make_task(expected + 0.01))
    assert abs(float(plan.parameters["shift"])) < 0.08
    counts = Counter(depths(plan, stats))
    assert [counts[depth] for depth in (7, 8, 9, 10)] == pytest.approx([35, 16, 24, 25], abs=3)


def test_given_thresholds_are_not_fitted() -> None:
    stats = with_values(0.05, 0.1, 0.12, 0.2)
    plan = SkipVAR(mode="skip", thresholds=PUBLISHED_THRESHOLDS)(stats, make_task(0.9))
    assert plan.depth_rule is not None
    assert plan.depth_rule.thresholds == (0.0928, 0.1167, 0.1537)
    assert depths(plan, stats) == [7, 8, 9, 10]
    with pytest.raises(UsageError, match="out of reach"):
        SkipVAR(mode="skip", thresholds=PUBLISHED_THRESHOLDS)(stats, make_task(0.4))


def test_one_prompt_and_equal_prompts() -> None:
    for stats in (with_values(0.2), with_values(*[0.2] * 6), with_values(0.0, 0.0, 0.0)):
        for target in (0.14, 0.5, 0.99, 1.0):
            plan = SkipVAR(mode="skip")(stats, make_task(target))
            assert float(plan.parameters["expected_flops"]) <= target
            assert len(set(depths(plan, stats))) == 1
