"""The schedules that Infinity was trained with."""

from __future__ import annotations

import pytest

from toprovar.errors import UsageError
from toprovar.models.schedules import RESOLUTIONS, aspect_ratios, find_aspect_ratio, full_schedule, schedule


def test_square_and_seven_pairs_of_aspect_ratios() -> None:
    names = aspect_ratios()
    assert len(names) == len(set(names)) == 15
    assert names[0] == "1:1"
    assert {":".join(reversed(name.split(":"))) for name in names} == set(names)


@pytest.mark.parametrize(("resolution", "tokens"), [("0.06M", 521), ("0.25M", 2521), ("0.60M", 6425), ("1M", 10521)])
def test_tokens_of_a_square_image(resolution: str, tokens: int) -> None:
    assert sum(height * width for height, width in schedule("1:1", resolution)) == tokens


@pytest.mark.parametrize("name", aspect_ratios())
def test_every_aspect_ratio(name: str) -> None:
    grids = full_schedule(name)
    width, height = map(int, name.split(":"))
    assert len(grids) == 13
    assert grids[0] == (1, 1)
    assert list(grids) == sorted(grids)
    assert grids[-1][1] / grids[-1][0] == pytest.approx(width / height, rel=0.02)
    assert grids[-1][0] * grids[-1][1] == pytest.approx(4096, rel=0.06)
    for resolution, count in RESOLUTIONS.items():
        assert schedule(name, resolution) == grids[:count]
        assert find_aspect_ratio(grids[:count]) == name


def test_a_schedule_of_ones_own_has_no_name() -> None:
    assert find_aspect_ratio(((1, 1), (7, 2))) is None


@pytest.mark.parametrize("name", ["", "1:0", "16:9", "1x1", "1:1 ", "ratio"])
def test_an_unknown_aspect_ratio_lists_the_choices(name: str) -> None:
    with pytest.raises(UsageError, match=r"expected width:height, one of 1:1, .*3:1"):
        schedule(name)


def test_an_unknown_resolution_lists_the_choices() -> None:
    with pytest.raises(UsageError, match=r"'2M'; expected one of 0\.06M, 0\.25M, 0\.60M, 1M"):
        schedule("1:1", "2M")
