"""The search, over sensitivities made up for it."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from toprovar.calibration.policies.toprovar_search import POLICY, ToProVARSearch
from toprovar.errors import UsageError
from toprovar.stats import CalibrationStats, LayerStats

from .made_up import LAYERS, SIDES, make_stats, make_task


@pytest.fixture(scope="module")
def stats() -> CalibrationStats:
    return make_stats(prompts=3)


@pytest.mark.parametrize("target", [0.9, 0.55, 0.4, 0.25])
@pytest.mark.parametrize("order", ["joint", "greedy"])
def test_the_budget_is_kept_and_nearly_used_up(target: float, order: Any, stats: CalibrationStats) -> None:
    plan = ToProVARSearch(order=order, layers=True, guidance="full")(stats, make_task(target))
    assert target - 0.03 <= plan.cost.ratio <= target
    assert plan.parameters["expected_flops"] == plan.cost.ratio
    assert all(scale.is_dense for scale in plan.scales[: len(SIDES) - 5])


def test_the_scale_that_is_missed_most_is_spared(stats: CalibrationStats) -> None:
    plan = ToProVARSearch(guidance="full")(stats, make_task(0.75))
    shares = [np.mean(scale.kept) / scale.tokens for scale in plan.scales]
    assert shares[-1] > max(shares[-4:-1])


def test_layers_that_hurt_most_are_spared(stats: CalibrationStats) -> None:
    """Where single layers together lose less than the scale as a whole, they keep shares of their own."""
    plan = ToProVARSearch(layers=True, guidance="full")(_cheap_layers(stats), make_task(0.5))
    assert any(len(set(scale.kept)) > 1 for scale in plan.scales)
    for scale in plan.scales[-5:]:
        outer, inner = (scale.kept[0], scale.kept[-1]), scale.kept[1:-1]
        assert min(outer) >= max(inner)


def test_layers_stay_alike_where_they_lose_more_apart(stats: CalibrationStats) -> None:
    plan = ToProVARSearch(layers=True, guidance="full")(_cheap_layers(stats, 1e3), make_task(0.5))
    assert all(len(set(scale.kept)) == 1 for scale in plan.scales)


def test_joint_does_no_more_damage_than_greedy_or_less_freedom(stats: CalibrationStats) -> None:
    def damage(**switches: Any) -> float:
        return float(
            ToProVARSearch(**{"layers": True, **switches})(stats, make_task(0.45)).parameters["expected_picture_error"]
        )

    free = damage()
    for switches in ({"order": "greedy"}, {"layers": False}, {"tokens": False}, {"guidance": "full"}):
        # counts are rounded after the search
        assert free <= damage(**switches) * 1.05


def test_guidance_ends_where_that_costs_less_than_tokens(stats: CalibrationStats) -> None:
    plan = ToProVARSearch(guidance="reused")(stats, make_task(0.5))
    modes = [scale.unconditional for scale in plan.scales]
    assert modes[-1] == "reused"
    assert modes == sorted(modes)  # full, then reused
    assert plan.pruning.reuses_guidance
    dear = dataclasses.replace(
        stats,
        scales=tuple(
            dataclasses.replace(
                scale, guidance=tuple(dataclasses.replace(one, picture_error=9.0) for one in scale.guidance)
            )
            for scale in stats.scales
        ),
    )
    for guidance in ("reused", "omitted"):
        plan = ToProVARSearch(guidance=guidance)(dear, make_task(0.5))
        assert all(scale.unconditional == "full" for scale in plan.scales)


@pytest.mark.parametrize("order", ["joint", "greedy"])
def test_without_tokens_a_layer_keeps_all_or_none(order: Any, stats: CalibrationStats) -> None:
    plan = ToProVARSearch(order=order, layers=True, tokens=False, guidance="full")(stats, make_task(0.5))
    assert all(kept in (0, scale.tokens) for scale in plan.scales for kept in scale.kept)


def test_nothing_is_kept_between_none_and_what_was_probed(stats: CalibrationStats) -> None:
    for target in (0.6, 0.4, 0.25):
        for scale in POLICY(stats, make_task(target)).scales:
            assert min(scale.kept) == 0 or min(scale.kept) >= 0.25 * scale.tokens - 4


def test_layers_alike(stats: CalibrationStats) -> None:
    plan = POLICY(stats, make_task(0.5))
    assert all(len(set(scale.kept)) == 1 for scale in plan.scales)
    assert len(plan.scales[0].kept) == LAYERS


def test_what_it_refuses(stats: CalibrationStats) -> None:
    with pytest.raises(UsageError, match=r"a target of 1% of dense FLOPs is out of reach; .* saves down to \d+%"):
        POLICY(stats, make_task(0.01))
    blind = dataclasses.replace(
        stats, scales=tuple(dataclasses.replace(scale, sensitivity=()) for scale in stats.scales)
    )
    with pytest.raises(UsageError, match="the calibration holds no sensitivities"):
        POLICY(blind, make_task(0.5))


def _cheap_layers(stats: CalibrationStats, factor: float = 1e-2) -> CalibrationStats:
    """The same with other losses of single layers."""

    def changed(layer: LayerStats) -> LayerStats:
        return dataclasses.replace(
            layer, sensitivity=tuple(dataclasses.replace(one, kl=factor * one.kl) for one in layer.sensitivity)
        )

    return dataclasses.replace(
        stats,
        scales=tuple(dataclasses.replace(scale, layers=tuple(map(changed, scale.layers))) for scale in stats.scales),
    )
