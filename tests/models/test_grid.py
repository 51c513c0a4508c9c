"""Places and anchors from sizes alone."""

from __future__ import annotations

import pytest
import torch

from toprovar.anchors import anchor_count
from toprovar.models.grid import anchors, is_anchor, places, square_distances

from .inputs import make_given


def test_places_run_row_by_row() -> None:
    assert places(make_given(2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (4, 4), (6, 9), (20, 20), (3, 13), (64, 33)])
def test_anchors_are_every_fourth_and_the_last(grid: tuple[int, int]) -> None:
    given = make_given(*grid)
    expected = [
        row * grid[1] + column
        for row in range(grid[0])
        for column in range(grid[1])
        if (row % 4 == 0 or row == grid[0] - 1) and (column % 4 == 0 or column == grid[1] - 1)
    ]
    assert anchors(given).tolist() == expected
    assert is_anchor(given).nonzero().flatten().tolist() == expected
    assert anchor_count(grid[0]) * anchor_count(grid[1]) == len(expected)


def test_distances_are_exact_on_the_largest_grid() -> None:
    place = places(make_given(64, 64))
    exact = (place[:, None] - place[None]).square().sum(-1)
    assert torch.equal(square_distances(place, place), exact)
