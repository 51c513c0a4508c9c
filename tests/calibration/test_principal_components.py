"""The Gram matrix's eigenvalues against numpy's singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toprovar.calibration.principal_components import LEADING_SHARE, leading_ratio


def by_svd(hidden: np.ndarray) -> float:
    hidden = hidden.astype(np.float64)
    variances = np.linalg.svd(hidden - hidden.mean(0), compute_uv=False) ** 2
    leading = max(1, round(LEADING_SHARE * len(variances)))
    return float(variances[:leading].sum() / variances.sum())


@pytest.mark.parametrize("shape", [(2, 5), (9, 64), (64, 64), (200, 40), (61, 60)])
@pytest.mark.parametrize("spread", [1e-7, 1.0, 1e6])
def test_against_singular_values(shape: tuple[int, int], spread: float) -> None:
    rng = np.random.default_rng(0)
    hidden = (rng.normal(size=shape) * np.linspace(0.1, 3, shape[1]) + 5) * spread
    hidden = hidden.astype(np.float32)
    assert leading_ratio(torch.from_numpy(hidden)) == pytest.approx(by_svd(hidden), rel=1e-6)


def test_one_direction_explains_everything() -> None:
    line = torch.linspace(-1, 1, 30)[:, None] * torch.arange(1.0, 9)[None]
    assert leading_ratio(line) == pytest.approx(1)


@pytest.mark.parametrize("tokens", [1, 3, 7])
def test_equal_tokens_have_no_variance_to_explain(tokens: int) -> None:
    assert leading_ratio(torch.full((tokens, 16), 0.1)) == 1
    assert leading_ratio(torch.zeros(tokens, 16)) == 1
