"""Intervals and PSNR."""

from __future__ import annotations

import numpy as np
import pytest

from toprovar.evaluation.bootstrap import bootstrap


def test_an_interval_holds_the_mean_and_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = bootstrap(values.tolist())
    assert found.mean == pytest.approx(values.mean())
    assert found.low < found.mean < found.high
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.15)
    assert bootstrap(values.tolist()) == found
    assert str(bootstrap([0.5, 0.5])) == "0.500 [0.500, 0.500]"


def test_groups_count_alike_whatever_their_size() -> None:
    found = bootstrap([1.0] * 30 + [0.0, 0.0], ["many"] * 30 + ["few"] * 2)
    assert (found.mean, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(("values", "groups"), [([], None), ([], []), ([1.0], ["a", "b"])])
def test_nothing_to_resample(values: list[float], groups: list[str] | None) -> None:
    with pytest.raises(ValueError, match="expected as many, and one at least"):
        bootstrap(values, groups)
