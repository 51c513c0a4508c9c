"""The distance from the mean token."""

from __future__ import annotations

import torch

from toprovar.models.selectors.deviation import SELECTOR


def test_what_lies_farthest_from_the_mean_comes_first() -> None:
    # means 0 and (1, 0); squared distances by hand
    x = torch.tensor([[[3.0, 0], [-1, 0], [-2, 0], [0, 0]], [[1.0, 0], [1, 0], [1, 2], [1, -2]]])
    values = SELECTOR(4, {}).before_layer(0, x)
    assert values.tolist() == [[-9, -1, -4, 0], [0, 0, -4, -4]]


def test_a_constant_map_ranks_nothing() -> None:
    assert SELECTOR(4, {}).before_layer(2, torch.full((1, 5, 3), 2.0)).abs().max() == 0
