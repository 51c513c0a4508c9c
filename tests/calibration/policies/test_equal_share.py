"""Policies whose last scales keep an equal share."""

from __future__ import annotations

import pytest

from toprovar.anchors import ANCHOR_SIMILARITY, anchor_count
from toprovar.calibration.policies.random import POLICY as RANDOM
from toprovar.calibration.policies.sparsevar import POLICY as SPARSEVAR
from toprovar.calibration.policies.sparsevar import SparseVAR
from toprovar.calibration.policies.stepvar import POLICY as STEPVAR
from toprovar.calibration.policies.stepvar import StepVAR
from toprovar.errors import UsageError

from ..made_up import make_stats, make_task


@pytest.mark.parametrize("policy", [RANDOM, SPARSEVAR, STEPVAR])
def test_the_last_three_scales_keep_one_share_in_all_layers(policy: SparseVAR) -> None:
    plan = policy(make_stats(), make_task(0.5))
    share = plan.parameters["share"]
    assert 0.3 < share < 0.7
    for scale in plan.scales[:-3]:
        assert scale.is_dense
    for scale in plan.scales[-3:]:
        assert len(set(scale.kept)) == 1
        assert scale.kept[0] == pytest.approx(share * scale.tokens, abs=4)
    assert plan.ranking.observers == ()


def test_selectors_and_restorations() -> None:
    plans = [policy(make_stats(), make_task(0.5)) for policy in (RANDOM, SPARSEVAR, STEPVAR)]
    assert [(plan.ranking.selector, plan.restoration) for plan in plans] == [
        ("random", "identity"),
        ("chunk_change", "anchor"),
        ("structure_texture", "nearest"),
    ]
    assert plans[1].parameters["anchor_similarity"] == ANCHOR_SIMILARITY == 0.8
    assert plans[1].parameters["anchor_step"] == 4


def test_anchors_are_always_kept() -> None:
    plan = SparseVAR(share=0.0)(make_stats(), make_task(0.5))
    assert [scale.kept[0] for scale in plan.scales[-3:]] == [40, 56, 88]
    for scale in plan.scales[-3:]:
        assert scale.kept[0] - 8 < anchor_count(scale.height) * anchor_count(scale.width) <= scale.kept[0]


def test_no_more_is_pruned_than_the_summary_says() -> None:
    stats = make_stats()
    with pytest.raises(UsageError, match=r"give --target-flops 0\.33 or more"):
        STEPVAR(stats, make_task(0.3))
    assert STEPVAR(stats, make_task(0.33)).parameters["share"] >= 0.3
    stronger = StepVAR(most_pruned=0.8)(stats, make_task(0.3))
    assert 0.2 <= stronger.parameters["share"] < 0.3
    more = StepVAR(scales=4)(stats, make_task(0.3))
    assert [scale.is_dense for scale in more.scales[-5:]] == [True, False, False, False, False]


def test_a_given_share() -> None:
    plan = StepVAR(share=0.25)(make_stats(), make_task(0.5))
    assert [scale.kept[0] / scale.tokens for scale in plan.scales[-3:]] == pytest.approx([0.25] * 3, abs=0.02)
    with pytest.raises(UsageError, match="out of reach"):
        StepVAR(share=0.25)(make_stats(), make_task(0.2))


def test_the_first_scale_is_never_pruned() -> None:
    sides = (4, 6, 8)
    plan = RANDOM(make_stats(sides), make_task(0.6, sides))
    assert [scale.is_dense for scale in plan.scales] == [True, False, False]
