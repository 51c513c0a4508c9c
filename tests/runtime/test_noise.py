"""Noise and the certainty threshold against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from toprovar.runtime.noise import certainty, logistic_noise


def test_the_same_seed_and_scale_give_the_same_noise() -> None:
    assert np.array_equal(logistic_noise(7, 3, 64, 16), logistic_noise(7, 3, 64, 16))
    assert not np.array_equal(logistic_noise(7, 3, 64, 16), logistic_noise(8, 3, 64, 16))


def test_scales_do_not_share_a_stream() -> None:
    # drawing another scale first, or a scale of another size, changes nothing
    before = logistic_noise(7, 5, 8, 4)
    logistic_noise(7, 4, 1000, 4)
    assert np.array_equal(logistic_noise(7, 5, 8, 4), before)
    assert not np.array_equal(logistic_noise(7, 4, 8, 4), before)
    assert abs(np.corrcoef(logistic_noise(7, 4, 500, 16).ravel(), logistic_noise(7, 5, 500, 16).ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 2, -5])
def test_neighbouring_seeds_differ_however_large(seed: int) -> None:
    assert not np.array_equal(logistic_noise(seed, 3, 16, 4), logistic_noise(seed + 1, 3, 16, 4))


def test_it_is_logistic_and_finite() -> None:
    noise = logistic_noise(0, 0, 4096, 32)
    assert noise.shape == (4096, 32)
    assert noise.dtype == np.float32
    assert np.isfinite(noise).all()
    assert stats.kstest(noise.ravel(), "logistic").pvalue > 0.01


def reference(difference: float, top_k: int, top_p: float) -> bool:
    """Whether the likelier of two values survives alone: Infinity's own top-k, then top-p."""
    logits = np.array([0.0, difference])
    if top_k > 0:
        logits[logits < np.sort(logits)[-min(top_k, 2)]] = -np.inf
    if top_p > 0:
        ascending = np.argsort(logits)
        mass = np.cumsum(np.exp(logits[ascending] - np.logaddexp.reduce(logits)))
        drop = mass <= 1 - top_p
        drop[-1] = False
        logits[ascending[drop]] = -np.inf
    return bool(np.isinf(logits).any())


@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.5, 0.8, 0.97, 0.999, 1.0])
@pytest.mark.parametrize("top_k", [0, 1, 2, 900])
def test_certainty_is_top_k_and_top_p_of_two_classes(top_k: int, top_p: float) -> None:
    threshold = certainty(top_k, top_p)
    for difference in np.linspace(-9, 9, 181) + 1e-4:
        assert (abs(difference) >= threshold) == reference(difference, top_k, top_p), difference


def test_the_threshold_of_a_nucleus() -> None:
    assert certainty(900, 0.97) == pytest.approx(math.log(0.97 / 0.03))
    assert certainty(1, 1.0) == 0
    assert certainty(0, 0.0) == math.inf
