"""What every policy must do, whatever its name."""

from __future__ import annotations

import re

import pytest

from toprovar.calibration.policies.dense import POLICY as DENSE
from toprovar.calibration.policy import Policy
from toprovar.errors import UsageError
from toprovar.extensions import POLICIES
from toprovar.plan import SparsityPlan
from toprovar.stats import CalibrationStats

from ..made_up import LAYERS, SIDES, make_stats, make_task

PRUNING = sorted(set(POLICIES.names()) - {"dense"})
PEERS = ("fastvar", "random", "skipvar", "sparsevar", "stepvar")


@pytest.fixture(scope="module")
def stats() -> CalibrationStats:
    return make_stats()


def mean_flops(plan: SparsityPlan, stats: CalibrationStats) -> float:
    """FLOPs over dense, averaged over the prompts, counted from the plan alone."""
    rule, total = plan.depth_rule, 0.0
    for prompt in stats.prompts:
        depth = 0 if rule is None else rule.depth(getattr(prompt, rule.statistic)[rule.decided_after])
        scales = range(len(plan.scales))
        kept = [plan.kept(scale, depth) for scale in scales]
        total += make_task(1).cost(stats.schedule, kept, [plan.unconditional(scale, depth) for scale in scales]).ratio
    return total / len(stats.prompts)


@pytest.mark.parametrize("target", [0.35, 0.5, 0.55, 0.7, 0.9])
@pytest.mark.parametrize("name", PRUNING)
def test_a_plan_meets_its_budget(name: str, target: float, stats: CalibrationStats) -> None:
    plan = POLICIES.load(name)(stats, make_task(target))
    reached = mean_flops(plan, stats)
    assert reached <= target
    # the others may find that less costs no more quality
    assert target - 0.01 <= reached or name not in PEERS
    assert plan.parameters["expected_flops"] == pytest.approx(reached)
    assert plan.parameters["target_flops"] == target


@pytest.mark.parametrize("name", POLICIES.names())
def test_a_plan_is_sound_and_can_be_had_again(name: str, stats: CalibrationStats) -> None:
    policy = POLICIES.load(name)
    assert isinstance(policy, Policy)
    plan = policy(stats, make_task(0.6))
    assert plan.policy == name
    assert SparsityPlan.from_json(plan.to_json()) == plan
    assert policy(make_stats(), make_task(0.6)).to_json() == plan.to_json()
    assert [(scale.height, scale.width) for scale in plan.scales] == [(side, side) for side in SIDES]
    assert plan.cost.dense_flops == pytest.approx(DENSE(stats, make_task(1)).cost.dense_flops)
    for scale in plan.scales:
        assert all(kept % 8 == 0 or kept == scale.tokens for kept in scale.kept)


@pytest.mark.parametrize("name", POLICIES.names())
def test_a_target_of_everything_is_dense(name: str, stats: CalibrationStats) -> None:
    assert mean_flops(POLICIES.load(name)(stats, make_task(1.0)), stats) == pytest.approx(1.0)


@pytest.mark.parametrize("name", PRUNING)
def test_an_impossible_target_names_the_one_that_can_be_had(name: str, stats: CalibrationStats) -> None:
    policy = POLICIES.load(name)
    with pytest.raises(UsageError, match=r"is out of reach; .* give --target-flops 0\.\d\d or more") as caught:
        policy(stats, make_task(0.001))
    found = re.search(r"--target-flops (\S+) or", str(caught.value))
    assert found
    offered = float(found[1])
    plan = policy(stats, make_task(offered))
    assert mean_flops(plan, stats) <= offered
    with pytest.raises(UsageError):
        policy(stats, make_task(offered - 0.015))


@pytest.mark.parametrize(
    "sides", [SIDES[:1], SIDES[:2], SIDES[:3], SIDES[:4]], ids=lambda sides: f"{len(sides)} scales"
)
@pytest.mark.parametrize("name", POLICIES.names())
def test_short_schedules(name: str, sides: tuple[int, ...]) -> None:
    """They are planned for, or refused with what can be had."""
    stats = make_stats(sides, prompts=8)
    for target in (0.3, 0.9, 1.0):
        try:
            plan = POLICIES.load(name)(stats, make_task(target, sides))
        except UsageError as error:
            assert target < 1, error
        else:
            assert len(plan.scales) == len(sides)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("name", POLICIES.names())
def test_shallow_models(name: str, layers: int) -> None:
    plan = POLICIES.load(name)(make_stats(layers=layers), make_task(0.6, layers=layers))
    assert plan.layers == layers < LAYERS
