"""The change across the fourth eighth of the layers, and anchors before all others."""

from __future__ import annotations

import pytest
import torch

from toprovar.models.selectors.chunk_change import SELECTOR

from ..inputs import make_given


@pytest.mark.parametrize(
    ("depth", "first", "last"), [(32, 12, 15), (40, 15, 19), (8, 3, 3), (10, 3, 4), (4, 1, 1), (2, 0, 0), (1, 0, 0)]
)
def test_which_layers_are_measured(depth: int, first: int, last: int) -> None:
    selector = SELECTOR(depth, make_given(1, 3))
    x = torch.zeros(1, 3, 2)
    for layer in range(depth):
        assert selector.before_layer(layer, x) is None
        # a token of its own for what comes before, within and after
        token = 0 if layer < first else 2 if layer > last else 1
        x = x.clone()
        x[0, token] += torch.tensor([1.0, 3.0])
        selector.after_layer(layer, x)
    layers = last - first + 1
    assert selector.carried().tolist() == [[0, -5.0 * layers**2, 0]]


def test_anchors_come_first_and_the_rest_by_what_was_carried_over() -> None:
    given = make_given(6, 9, images=2)
    given["prior"] = -torch.rand(2, 54, generator=torch.Generator().manual_seed(0))
    values = SELECTOR(4, given).at_start(torch.zeros(2, 54, 3))
    anchors = [row * 9 + column for row in (0, 4, 5) for column in (0, 4, 8)]
    others = [index for index in range(54) if index not in anchors]
    for own, prior, order in zip(values, given["prior"], values.argsort(dim=1), strict=True):
        assert set(order[:9].tolist()) == set(anchors)
        assert order[9:].tolist() == sorted(others, key=lambda index: float(prior[index]))
        assert torch.equal(own[others], prior[others])


def test_without_anything_carried_over_anchors_still_come_first() -> None:
    values = SELECTOR(4, make_given(5, 5)).at_start(torch.zeros(1, 25, 3))
    assert (values < 0).nonzero()[:, 1].tolist() == [0, 4, 20, 24]
