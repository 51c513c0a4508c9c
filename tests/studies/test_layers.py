from __future__ import annotations

import numpy as np
import pytest

from toprovar.studies.layers import autocorrelation, permutation_p, rows_of, without_trend, words

ALTERNATING = np.tile([0.2, 0.8], 4)
RISING = np.linspace(0.1, 0.9, 8)


def of_model(pattern: np.ndarray, prompts: int = 6, noise: float = 0.01, seed: int = 0) -> np.ndarray:
    """R [prompts, scales, layers], the same pattern at five scales."""
    return pattern + noise * np.random.default_rng(seed).normal(size=(prompts, 5, len(pattern)))


def test_autocorrelation_of_known_series() -> None:
    assert autocorrelation(ALTERNATING, 1) == pytest.approx(-7 / 8)
    assert autocorrelation(ALTERNATING, 2) == pytest.approx(6 / 8)
    assert autocorrelation(RISING, 1) > 0.5
    assert autocorrelation(without_trend(RISING), 1) == 0
    assert autocorrelation(np.stack([ALTERNATING, RISING]), 1).shape == (2,)


@pytest.mark.parametrize("lag", [1, 2])
@pytest.mark.parametrize("detrended", [False, True])
def test_alternation_is_found(lag: int, detrended: bool) -> None:
    assert permutation_p(ALTERNATING, lag, detrended) < 0.05
    assert permutation_p(ALTERNATING + np.random.default_rng(0).normal(size=8) * 0.01, lag, detrended) < 0.05
    assert permutation_p(np.stack([ALTERNATING, ALTERNATING]), lag, detrended) < 0.05


def test_alternation_on_a_slope_needs_the_slope_taken_off() -> None:
    both = 0.1 * ALTERNATING + RISING
    assert permutation_p(both, 1) > 0.5
    assert permutation_p(both, 1, detrended=True) < 0.05


@pytest.mark.parametrize("detrended", [False, True])
def test_a_constant_series_says_nothing(detrended: bool) -> None:
    for lag in (1, 2):
        assert autocorrelation(np.full(8, 0.3), lag) == 0
        assert permutation_p(np.full(8, 0.3), lag, detrended) == 1


def test_p_of_noise_is_spread_evenly() -> None:
    generator = np.random.default_rng(0)
    for slope, detrended in ((0.0, False), (10.0, True)):
        found = [permutation_p(generator.normal(size=8) + slope * RISING, 1, detrended) for _ in range(60)]
        assert 0.38 < np.mean(found) < 0.62
        assert np.mean(np.array(found) < 0.05) < 0.15


def test_words() -> None:
    yes = rows_of(of_model(ALTERNATING), of_model(ALTERNATING, seed=1))
    assert [row["scale"] for row in yes] == ["2", "3", "4", "5", "all"]
    assert words(yes).startswith("Yes: Global and Detail layers take turns")
    assert all(row["Spearman of seeds"] > 0.5 for row in yes)  # type: ignore[operator]
    no = rows_of(of_model(RISING, seed=5), of_model(RISING, seed=6))
    assert words(no).startswith("No: Global and Detail layers do not take turns")
    few = rows_of(of_model(RISING[:2]), of_model(RISING[:2]))
    assert words(few).startswith("No answer: 2 layers")
    flat = rows_of(of_model(np.full(8, 0.5), noise=0), of_model(np.full(8, 0.5), noise=0))
    assert words(flat).startswith("No:")


def test_one_prompt_has_no_halves() -> None:
    rows = rows_of(of_model(ALTERNATING, prompts=1), of_model(ALTERNATING, prompts=1))
    assert rows[0]["Spearman of halves"] is None
    assert "halves" not in words(rows)
