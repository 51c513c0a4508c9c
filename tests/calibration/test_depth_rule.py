"""The depth rule: monotone, even, and sound with ties."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toprovar.calibration.depth_rule import fit_depth_rule

RATIOS = st.lists(st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0]), min_size=1, max_size=12)


def test_prompts_are_parted_evenly() -> None:
    ratios = np.linspace(0.05, 0.95, 12).tolist()
    rule = fit_depth_rule(ratios, 3, (4, 5, 6))
    assert Counter(rule.depth(ratio) for ratio in ratios) == {4: 4, 5: 4, 6: 4}
    assert (rule.decided_after, rule.statistic) == (3, "low_entropy_ratio")


@given(RATIOS, st.integers(1, 4))
def test_depth_rises_with_the_ratio(ratios: list[float], depths: int) -> None:
    rule = fit_depth_rule(ratios, 1, range(2, 2 + depths))
    chosen = [rule.depth(ratio) for ratio in np.linspace(0, 1, 101)]
    assert all(one <= other for one, other in itertools.pairwise(chosen))
    assert set(chosen) <= set(range(2, 2 + depths))
    assert rule.depths[0] == 2


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_ties_give_one_depth_to_all(ratio: float) -> None:
    rule = fit_depth_rule([ratio] * 5, 1, (2, 3, 4))
    assert len({rule.depth(one) for one in [ratio] * 5}) == 1
    assert rule.thresholds == (ratio,)


def test_a_single_candidate_needs_no_threshold() -> None:
    rule = fit_depth_rule([0.2, 0.4], 0, (1,))
    assert (rule.thresholds, rule.depths) == ((), (1,))
