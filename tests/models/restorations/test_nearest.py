"""The nearest computed token lends its hidden state."""

from __future__ import annotations

import torch

from toprovar.models.restorations.nearest import RESTORATION

from ..inputs import make_given, make_tokens


def test_by_hand_on_a_line() -> None:
    given = make_given(1, 7, kept=(2, 2))
    x = torch.arange(7.0).view(1, 7, 1)
    # tokens 5 and 1 are computed; 3 is as near to either and takes the one that ranks higher
    order = torch.tensor([[5, 1, 0, 2, 3, 4, 6]])
    tokens = make_tokens(given, order, x)
    finished = RESTORATION(given).finish(tokens)
    assert finished.token_rows(finished.x).flatten().tolist() == [1, 1, 1, 5, 5, 5, 5]
    assert torch.equal(finished.order, order)


def test_rows_and_columns_count_alike() -> None:
    given = make_given(3, 4, images=2, kept=(2,))
    x = torch.arange(12.0).view(1, 12, 1).repeat(4, 1, 1) + 100 * torch.arange(4.0).view(4, 1, 1)
    rest = [[token for token in range(12) if token not in first] for first in ((0, 11), (3, 8))]
    order = torch.tensor([[0, 11, *rest[0]], [3, 8, *rest[1]]])
    tokens = make_tokens(given, order, x)
    finished = RESTORATION(given).finish(tokens)
    rows = finished.token_rows(finished.x).squeeze(2)
    first = torch.tensor([0, 0, 0, 11, 0, 0, 11, 11, 0, 11, 11, 11])
    second = torch.tensor([8, 3, 3, 3, 8, 8, 3, 3, 8, 8, 8, 3])
    # by hand: (1, 1) is 2 from (0, 0) and 5 from (2, 3); (0, 2) 4 and 5; (2, 1) 5 and 4; (1, 2) 5 and 2
    assert rows[0].tolist() == first.tolist()
    assert rows[1].tolist() == (second + 100).tolist()
    # the unconditional rows share the images' choice
    assert rows[2].tolist() == (first + 200).tolist()
    assert rows[3].tolist() == (second + 300).tolist()


def test_one_token_fills_the_map() -> None:
    given = make_given(2, 3, kept=(1, 1))
    tokens = make_tokens(given, torch.tensor([[4, 0, 1, 2, 3, 5]]), torch.arange(6.0).view(1, 6, 1))
    assert RESTORATION(given).finish(tokens).x.flatten().tolist() == [4.0] * 6


def test_where_a_layer_keeps_all_nothing_changes() -> None:
    given = make_given(2, 3, kept=(6, 1))
    tokens = make_tokens(given, torch.tensor([[4, 0, 1, 2, 3, 5]]), torch.randn(1, 6, 2))
    assert torch.equal(RESTORATION(given).finish(tokens).x, tokens.x)
