"""The search, over sensitivities made up for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from toprovar.calibration.policies.toprovar_search import POLICY, ToProVARSearch
from toprovar.errors import UsageError
from toprovar.stats import CalibrationStats

from .made_up import LAYERS, SIDES, make_stats, make_task


@pytest.fixture(scope="module")
def stats() -> CalibrationStats:
    return make_stats(prompts=3)


@pytest.mark.parametrize("target", [0.9, 0.55, 0.4, 0.25])
@pytest.mark.parametrize("order", ["joint", "greedy"])
def test_the_budget_is_kept_and_nearly_used_up(target: float, order: Any, stats: CalibrationStats) -> None:
    plan = ToProVARSearch(order=order, guidance="full")(stats, make_task(target))
    assert target - 0.03 <= plan.cost.ratio <= target
    assert plan.parameters["expected_flops"] == plan.cost.ratio
    assert all(scale.is_dense for scale in plan.scales[: len(SIDES) - 5])


def test_layers_that_hurt_most_are_spared(stats: CalibrationStats) -> None:
    plan = ToProVARSearch(guidance="full")(stats, make_task(0.5))
    for scale in plan.scales[-5:]:
        outer, inner = (scale.kept[0], scale.kept[-1]), scale.kept[1:-1]
        assert min(outer) >= max(inner)
    assert any(min(scale.kept) < scale.tokens for scale in plan.scales)


def test_joint_does_no_more_damage_than_greedy_or_less_freedom(stats: CalibrationStats) -> None:
    def damage(**switches: Any) -> float:
        return float(ToProVARSearch(**switches)(stats, make_task(0.45)).parameters["expected_damage"])

    free = damage()
    for switches in ({"order": "greedy"}, {"layers": False}, {"tokens": False}, {"guidance": "full"}):
        # counts are rounded after the search
        assert free <= damage(**switches) * 1.05


def test_guidance_goes_where_it_costs_less_damage_than_tokens(stats: CalibrationStats) -> None:
    plan = POLICY(stats, make_task(0.5))
    modes = [scale.unconditional for scale in plan.scales]
    assert modes[-1] == "reused"
    assert modes == sorted(modes)  # full, then reused
    assert plan.pruning.reuses_guidance
    dear = dataclasses.replace(
        stats,
        scales=tuple(
            dataclasses.replace(scale, guidance=tuple(dataclasses.replace(one, kl=9.0) for one in scale.guidance))
            for scale in stats.scales
        ),
    )
    assert all(scale.unconditional == "full" for scale in POLICY(dear, make_task(0.5)).scales)


def test_without_tokens_a_layer_keeps_all_or_none_up_to_one(stats: CalibrationStats) -> None:
    plan = ToProVARSearch(tokens=False, guidance="full")(stats, make_task(0.5))
    parts = [kept for scale in plan.scales for kept in scale.kept if 0 < kept < scale.tokens]
    assert len(parts) <= 1  # the last step of the allocation is taken in part


def test_layers_alike(stats: CalibrationStats) -> None:
    plan = ToProVARSearch(layers=False)(stats, make_task(0.5))
    assert all(len(set(scale.kept)) == 1 for scale in plan.scales)
    assert len(plan.scales[0].kept) == LAYERS


def test_what_it_refuses(stats: CalibrationStats) -> None:
    with pytest.raises(UsageError, match=r"a target of 1% of dense FLOPs is out of reach; .* saves down to \d+%"):
        POLICY(stats, make_task(0.01))
    blind = dataclasses.replace(
        stats,
        scales=tuple(
            dataclasses.replace(
                scale, layers=tuple(dataclasses.replace(layer, sensitivity=()) for layer in scale.layers)
            )
            for scale in stats.scales
        ),
    )
    with pytest.raises(UsageError, match="the calibration holds no sensitivities"):
        POLICY(blind, make_task(0.5))
