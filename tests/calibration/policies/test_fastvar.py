"""FastVAR's settings, and the ladder that meets a budget."""

from __future__ import annotations

import pytest

from toprovar.calibration.policies.fastvar import POLICY, FastVAR
from toprovar.errors import UsageError
from toprovar.plan import SparsityPlan

from ..made_up import make_stats, make_task

LARGE = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)


def shares(plan: SparsityPlan, layer: int = 3) -> list[float]:
    """Kept share of one layer, by scale."""
    return [round(scale.kept[layer] / scale.tokens, 2) for scale in plan.scales]


def test_the_published_setting_of_the_2b_model() -> None:
    stats, task = make_stats(LARGE, 32), make_task(0.3, LARGE, 32)
    plan = FastVAR(ratio=0.4)(stats, task)
    assert [scale.kept[0] for scale in plan.scales[-2:]] == [0, 0]
    assert shares(plan)[-5:] == [1, 0.6, 0.5, 0, 0]
    assert all(share == 1 for share in shares(plan)[:-4])
    pruned = [layer for layer, kept in enumerate(plan.scales[-4].kept) if kept < 1024]
    assert pruned == list(range(3, 28))
    assert (plan.ranking.selector, plan.restoration, plan.depth_rule) == ("deviation", "cached", None)
    literal = FastVAR(literal=True)(stats, task)
    assert literal.scales == plan.scales
    assert plan.parameters["ratio"] == literal.parameters["ratio"] == 0.4


def test_the_published_sides_on_a_small_schedule() -> None:
    """Of 32 x 32 tokens 40 % are pruned in the layers between the dense ones, and nothing else."""
    plan = FastVAR(literal=True)(make_stats(), make_task(0.9))
    assert shares(plan)[-2:] == [1, 0.6]
    assert plan.scales[-1].kept == (1024, *[616] * 6, 1024)
    assert plan.cost.ratio == pytest.approx(0.82, abs=0.005)
    with pytest.raises(UsageError, match="out of reach"):
        FastVAR(literal=True)(make_stats(), make_task(0.8))


@pytest.mark.parametrize(
    ("target", "left_out", "ratio"),
    # costs of the research's table: 0.58 at 0.6, 0.48 with one scale left out, 0.35 at 0.4 of the next two
    [(0.70, 0, 0.40), (0.58, 0, 0.60), (0.55, 0, 0.65), (0.35, 1, 0.40), (0.18, 2, 0.42)],
)
def test_the_ladder(target: float, left_out: int, ratio: float) -> None:
    plan = POLICY(make_stats(), make_task(target))
    assert plan.parameters["left_out"] == left_out
    assert plan.parameters["ratio"] == pytest.approx(ratio, abs=0.02)
    first, second = (1 - one for one in shares(plan)[8 - left_out : 10 - left_out])
    assert second == pytest.approx(1.25 * first, abs=0.03)
    assert all(share == 1 for share in shares(plan)[: 8 - left_out])


def test_a_milder_target_prunes_no_more() -> None:
    costs = [POLICY(make_stats(), make_task(target / 100)).cost.ratio for target in range(20, 101, 4)]
    assert costs == sorted(costs)
