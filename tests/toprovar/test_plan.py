"""The plan: its rules between fields, and what it answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toprovar.errors import ArtefactError
from toprovar.extensions import RESTORATIONS, SELECTORS, STATISTICS
from toprovar.plan import DepthRule, PlanCost, Ranking, ScalePlan, SparsityPlan

RULE = DepthRule("low_entropy_ratio", 1, -0.5, (0.25, 0.5), (2, 3, 3))
replace = dataclasses.replace


def test_kept_is_dense_before_the_depth(plan: SparsityPlan) -> None:
    assert plan.kept(2) == (12, 6, 0)
    assert plan.kept(2, depth=2) == (12, 6, 0)
    assert plan.kept(2, depth=3) == (12, 12, 12)
    assert plan.kept(1, depth=2) == (4, 4, 4)
    assert plan.layers == 3


def test_is_dense(plan: SparsityPlan) -> None:
    assert not plan.is_dense
    assert [scale.is_dense for scale in plan.scales] == [True, False, False]
    scales = tuple(replace(scale, kept=(scale.tokens,) * 3) for scale in plan.scales)
    assert replace(plan, scales=scales).is_dense


@pytest.mark.parametrize(("ratio", "depth"), [(0.0, 2), (0.2499, 2), (0.25, 3), (0.5, 3), (1.0, 3)])
def test_depth(ratio: float, depth: int) -> None:
    assert RULE.depth(ratio) == depth


@pytest.mark.parametrize("ratio", [float("nan"), -0.1, 1.1])
def test_depth_of_no_ratio_is_a_bug(ratio: float) -> None:
    with pytest.raises(ValueError, match="expected a finite number from 0 to 1, got"):
        RULE.depth(ratio)


def test_how_large_a_statistic_may_be_is_its_own_affair() -> None:
    rule = DepthRule("high_frequency", 1, None, (0.25, 50.0), (2, 3, 4))
    assert [rule.depth(value) for value in (0.0, 49.9, 50.0, 1e9)] == [2, 3, 4, 4]
    for value in (float("nan"), float("inf"), -0.1):
        with pytest.raises(ValueError, match="expected a finite number from 0 to inf, got"):
            rule.depth(value)


@given(
    st.lists(st.floats(0, 1), unique=True, max_size=5).map(sorted),
    st.booleans(),
    st.data(),
)
def test_depth_is_monotone(thresholds: list[float], falling: bool, data: st.DataObject) -> None:
    count = len(thresholds) + 1
    depths = sorted(data.draw(st.lists(st.integers(1, 9), min_size=count, max_size=count)), reverse=falling)
    rule = DepthRule("low_entropy_ratio", 0, 0.0, tuple(thresholds), tuple(depths))
    low, high = sorted((data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1))))
    assert (rule.depth(low) >= rule.depth(high)) if falling else (rule.depth(low) <= rule.depth(high))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScalePlan(0, 1, (1,)), "height: expected an integer of at least 1, got 0"),
        (lambda: ScalePlan(2, 2, ()), "kept: expected a count for each layer, got a list of 0"),
        (lambda: ScalePlan(2, 2, (4, 5)), "kept[1]: expected an integer from 0 to 4, got 5"),
        (lambda: ScalePlan(2, 2, (4, True)), "kept[1]: expected an integer, got true"),
        (
            lambda: ScalePlan(2, 2, (4,), "skip"),  # type: ignore[arg-type]
            "unconditional: expected one of 'full', 'reused', 'omitted', got 'skip'",
        ),
        (
            lambda: Ranking("entropy"),
            f"selector: expected one of {', '.join(SELECTORS.names())}, none, got 'entropy'",
        ),
        (
            lambda: Ranking("previous_scale"),
            "observers: expected a layer at least, to rank by 'previous_scale', got a list of 0",
        ),
        (
            lambda: Ranking("none", (2, 1), (((0.1,), (0.1,)),), (((0.1,), (0.1,)),)),
            "observers: expected ascending layers, got 1 after 2",
        ),
        (
            lambda: Ranking("none", (1, 1), (((0.1,), (0.1,)),), (((0.1,), (0.1,)),)),
            "observers: expected ascending layers, got 1 after 1",
        ),
        (
            lambda: Ranking("none", (1,), (((0.1,),),), (((0.0,),),)),
            "deviation[0][0][0]: expected a number above 0, got 0.0",
        ),
        (
            lambda: Ranking("none", (1,), (((0.1, 0.2),),), (((0.1,),),)),
            "deviation[0][0]: expected one entry for each head (2), got a list of 1",
        ),
        (
            lambda: Ranking("none", (1,), (((0.1,), (0.1,)),), (((0.1,),),)),
            "mean[0]: expected one entry for each observer (1), got a list of 2",
        ),
        (
            lambda: Ranking("none", (1,), (((0.1,),),), ()),
            "deviation: expected one entry for each scale (1), got a list of 0",
        ),
        (
            lambda: Ranking("none", (), (((0.1,),),), ()),
            "mean: expected one entry for each scale (0), got a list of 1",
        ),
        (
            lambda: replace(RULE, thresholds=(0.5, 0.5)),
            "thresholds[1]: expected a number above 0.5, got 0.5",
        ),
        (lambda: replace(RULE, depths=(2, 3)), "depths: expected 3 depths, got a list of 2"),
        (lambda: replace(RULE, depths=(1, 2, 3)), "depths[0]: expected an integer above 1, got 1"),
        (
            lambda: replace(RULE, depths=(2, 4, 3)),
            "depths: expected depths that rise or fall throughout, got 2, 4, 3",
        ),
        (
            lambda: replace(RULE, statistic="mean"),
            f"statistic: expected one of {', '.join(STATISTICS.names())}, got 'mean'",
        ),
        (
            lambda: replace(RULE, low_below=None),
            "low_below: expected a number for the statistic 'low_entropy_ratio', got null",
        ),
        (
            lambda: replace(RULE, statistic="high_frequency"),
            "low_below: expected null for the statistic 'high_frequency', got -0.5",
        ),
        (lambda: PlanCost(3.0, 1.0, (1.0,), (1.0,)), "dense_flops: expected the sum of its scales, 1.0, got 3.0"),
        (
            lambda: PlanCost(2.0, 2.0, (1.0, 1.0), (0.5, 1.5)),
            "per_scale_sparse[1]: expected at most the dense 1.0, got 1.5",
        ),
        (
            lambda: PlanCost(1.0, 1.0, (1.0,), (0.5, 0.5)),
            "per_scale_sparse: expected one entry for each scale (1), got a list of 2",
        ),
    ],
)
def test_a_part_that_does_not_fit_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ArtefactError) as caught:
        make()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda plan: {"scales": ()}, "scales: expected a scale at least, got a list of 0"),
        (lambda plan: {"model_sha256": "0"}, "model_sha256: expected 64 hexadecimal digits, got '0'"),
        (
            lambda plan: {"restoration": "zero"},
            f"restoration: expected one of {', '.join(RESTORATIONS.names())}, got 'zero'",
        ),
        (lambda plan: {"schema_version": 1}, "schema_version: expected 2, got 1"),
        (
            lambda plan: {
                "scales": (*plan.scales[:1], replace(plan.scales[1], unconditional="omitted"), plan.scales[2])
            },
            "scales[2].unconditional: expected reused or omitted, as the scale before is omitted and leaves no keys, "
            "got 'full'",
        ),
        (
            lambda plan: {"scales": (*plan.scales[:2], replace(plan.scales[2], kept=(1, 2)))},
            "scales[2].kept: expected one entry for each layer (3), got a list of 2",
        ),
        (
            lambda plan: {"scales": (ScalePlan(2, 2, (4, 4, 3)), *plan.scales[1:])},
            "scales[0].kept[2]: expected 0 or 4 at the first scale, got 3",
        ),
        (
            lambda plan: {"ranking": replace(plan.ranking, selector="none")},
            "scales[1].kept[2]: expected 0 or 4 without a ranking, got 3",
        ),
        (
            lambda plan: {"ranking": replace(plan.ranking, observers=(0, 3))},
            "ranking.observers[1]: expected an integer from 0 to 2, got 3",
        ),
        (
            lambda plan: {
                "ranking": replace(plan.ranking, mean=plan.ranking.mean[:2], deviation=plan.ranking.deviation[:2])
            },
            "ranking.mean: expected one entry for each scale (3), got a list of 2",
        ),
        (
            lambda plan: {"depth_rule": replace(plan.depth_rule, depths=(2, 3, 4))},
            "depth_rule.depths[2]: expected at most the number of scales, 3, got 4",
        ),
        (
            lambda plan: {
                "ranking": Ranking("none"),
                "scales": tuple(replace(scale, kept=(0, scale.tokens, 0)) for scale in plan.scales),
            },
            "ranking.observers: expected a layer at least, for the depth rule, got a list of 0",
        ),
        (
            lambda plan: {"cost": PlanCost(1.0, 1.0, (1.0,), (1.0,))},
            "cost.per_scale_dense: expected one entry for each scale (3), got a list of 1",
        ),
    ],
)
def test_a_plan_that_does_not_agree_is_refused(
    plan: SparsityPlan, change: Callable[[SparsityPlan], dict[str, object]], message: str
) -> None:
    with pytest.raises(ArtefactError) as caught:
        replace(plan, **change(plan))
    assert str(caught.value) == message


def test_a_statistic_without_entropy_needs_no_observers(plan: SparsityPlan) -> None:
    scales = tuple(replace(scale, kept=(0, scale.tokens, 0)) for scale in plan.scales)
    rule = DepthRule("high_frequency", 0, None, (0.1,), (1, 3))
    skipping = replace(plan, scales=scales, ranking=Ranking("none"), depth_rule=rule)
    assert SparsityPlan.from_json(skipping.to_json()) == skipping


def test_a_plan_without_ranking_may_leave_layers_out(plan: SparsityPlan) -> None:
    scales = tuple(replace(scale, kept=(0, scale.tokens, 0)) for scale in plan.scales)
    skipping = replace(plan, scales=scales, ranking=Ranking("none"), depth_rule=None)
    assert SparsityPlan.from_json(skipping.to_json()) == skipping
