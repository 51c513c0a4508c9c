"""Running sums over prompts against numpy over everything at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toprovar.calibration.fold import Fold

from .synthetic import GRIDS, HEADS, LAYERS, entropies, record


def fold(seeds: list[int]) -> Fold:
    result = Fold(GRIDS, LAYERS, HEADS)
    for seed in seeds:
        result.add(record(seed))
    return result


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_moments_histograms_and_ratios(seeds: list[int]) -> None:
    measured = fold(seeds).scales()
    assert [(s.height, s.width, s.keys) for s in measured] == [(1, 1, 1), (2, 2, 5), (3, 5, 20)]
    recordings = [record(seed) for seed in seeds]
    for scale, one in enumerate(measured):
        # [prompts, layers, heads, tokens]
        values = np.stack([entropies(seed)[scale] for seed in seeds]).astype(np.float64)
        assert len(one.layers) == LAYERS
        for layer, stats in enumerate(one.layers):
            np.testing.assert_allclose(stats.entropy_mean, values[:, layer].mean((0, 2)), rtol=1e-13)
            np.testing.assert_allclose(stats.entropy_deviation, values[:, layer].std((0, 2)), rtol=1e-9, atol=1e-9)
            expected = np.sum([recording.histogram[scale, layer] for recording in recordings], 0)
            assert stats.histogram == tuple(map(tuple, expected.tolist()))
            ratios = [recording.principal_component_ratio[scale, layer] for recording in recordings]
            assert stats.principal_component_ratio == pytest.approx(np.mean(ratios), rel=1e-13)
            assert stats.principal_component_deviation == pytest.approx(np.std(ratios), rel=1e-9, abs=1e-15)
            assert stats.sensitivity == ()


def test_equal_prompts_do_not_deviate() -> None:
    for scale in fold([4] * 7).scales():
        assert {layer.principal_component_deviation for layer in scale.layers} == {0.0}


def test_histograms_of_many_prompts_do_not_overflow() -> None:
    most = np.iinfo(np.int32).max
    one = dataclasses.replace(record(0), histogram=np.full_like(record(0).histogram, most))
    result = Fold(GRIDS, LAYERS, HEADS)
    for _ in range(3):
        result.add(one)
    assert result.scales()[2].layers[1].histogram[1][5] == 3 * most


def test_nothing_to_fold() -> None:
    with pytest.raises(ValueError, match="statistics of no prompt"):
        Fold(GRIDS, LAYERS, HEADS).scales()
