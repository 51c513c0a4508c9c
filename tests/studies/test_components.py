from __future__ import annotations

import pytest
import torch

from toprovar.studies.components import by_gram, by_svd, compare, words


@pytest.mark.parametrize("shape", [(1, 8), (4, 64), (100, 16), (64, 64)], ids=str)
def test_both_ways_agree(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layers = [torch.randn(shape) @ torch.diag(torch.linspace(1, 5, shape[1])) for _ in range(3)]
    layers.append(torch.ones(shape) * 0.1)
    torch.testing.assert_close(by_gram(layers), by_svd(layers), rtol=0, atol=1e-9)


def test_rank_one_is_explained_fully() -> None:
    hidden = torch.outer(torch.arange(32.0), torch.ones(8))
    assert by_svd([hidden]).item() == pytest.approx(1)
    row = compare(3, [hidden, hidden])
    assert (row["scale"], row["tokens"], row["channels"], row["layers"]) == (4, 32, 8, 2)


def test_words_say_when_it_does_not_pay() -> None:
    row = {"Gram and eigenvalues, s": 2.0, "full SVD, s": 1.0, "largest difference": 1e-12}
    assert words([row], 0.25, 3).startswith("No: Gram matrices are not faster here")
    assert words([{**row, "full SVD, s": 5.0}], 0.25, 3).startswith("Gram matrices are faster: 2.000 s")
    assert "25.0% of a calibration" in words([row], 0.25, 3)
