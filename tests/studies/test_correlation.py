from __future__ import annotations

import pytest

from toprovar.studies.correlation import spearman


def test_spearman() -> None:
    assert spearman([1, 2, 3, 4], [1, 4, 9, 16]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 3], [1, 2, 2, 3]) == pytest.approx(1)
    assert spearman([1, 2, 3], [5, 5, 5]) == 0
    assert spearman([1], [2]) == 0


@pytest.mark.parametrize("pair", [([], []), ([1, 2], [1])], ids=["empty", "uneven"])
def test_lengths(pair: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="expected as many"):
        spearman(*pair)
