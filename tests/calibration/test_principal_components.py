"""The Gram matrix's eigenvalues against numpy's singular values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toprovar.calibration.principal_components import LEADING_SHARE, centred_grams, leading_ratio, leading_ratios


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


def test_a_batch_is_its_members_one_by_one() -> None:
    hidden = torch.stack([*(torch.randn(12, 30) * (index + 1) for index in range(4)), torch.full((12, 30), 0.3)])
    together = leading_ratios(*centred_grams(hidden))
    assert together.tolist() == pytest.approx([leading_ratio(one) for one in hidden], rel=1e-12)
    assert together[-1] == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_energy_tells_numbers_that_are_not_finite(value: float) -> None:
    hidden = torch.zeros(2, 3, 5)
    hidden[1, 1, 4] = value
    assert torch.isfinite(centred_grams(hidden)[1]).tolist() == [True, False]
    # large ones are finite all the same
    assert torch.isfinite(centred_grams(torch.full((1, 3, 5), 3e38))[1]).all()


@pytest.mark.parametrize(("side", "threads"), [(256, 1), (257, 2)])
def test_small_matrices_take_one_thread(side: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def eigenvalues(grams: torch.Tensor) -> torch.Tensor:
        used.append(torch.get_num_threads())
        raise RuntimeError("stop")

    monkeypatch.setattr(torch.linalg, "eigvalsh", eigenvalues)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="stop"):
            leading_ratios(torch.zeros(1, side, side), torch.ones(1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert used == [threads]
