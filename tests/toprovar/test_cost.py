"""The FLOP model, against counts made by hand and properties that hold for every plan."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toprovar.cost import block_flops, head_flops, plan_cost


def test_a_block_by_hand() -> None:
    # Matrix products of one block, 2 FLOPs a multiply-add, for C=8, K=3, L=5, T=2, one row.
    width, kept, keys, text = 8, 3, 5, 2
    products = [
        (kept, width, 3 * width),  # query, key, value
        (kept, width, keys),  # scores
        (kept, keys, width),  # weighted sum
        (kept, width, width),  # output
        (kept, width, width),  # cross-attention: query
        (kept, width, text),
        (kept, text, width),
        (kept, width, width),  # output
        (kept, width, 4 * width),  # MLP
        (kept, 4 * width, width),
    ]
    expected = sum(2 * rows * inner * columns for rows, inner, columns in products)
    assert block_flops(width, kept, keys, text, rows=1) == expected
    assert block_flops(width, kept, keys, text, rows=2) == 2 * expected
    assert block_flops(width, 0, keys, text, rows=2) == 0


def test_the_head_by_hand() -> None:
    assert head_flops(width=8, code_bits=16, tokens=3, rows=2) == 2 * 2 * 3 * 8 * 32


def test_a_layer_sees_the_keys_that_it_kept_itself() -> None:
    tokens = (1, 4, 16)
    cost = plan_cost(8, 2, 16, tokens, ((1, 1), (4, 0), (8, 8)), text_tokens=2, rows=1)
    expected = block_flops(8, 8, 1 + 4 + 8, 2, 1) + block_flops(8, 8, 1 + 0 + 8, 2, 1) + head_flops(8, 16, 16, 1)
    assert cost.per_scale_sparse[2] == expected
    assert cost.per_scale_dense[2] == 2 * block_flops(8, 16, 21, 2, 1) + head_flops(8, 16, 16, 1)


def test_a_scale_that_is_left_out_costs_nothing() -> None:
    cost = plan_cost(8, 2, 16, (1, 4), ((1, 1), (0, 0)), text_tokens=2)
    assert cost.per_scale_sparse[1] == 0


def test_a_table_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        plan_cost(8, 2, 16, (1, 4), ((1, 1),), text_tokens=2)


@given(st.data())
def test_dense_costs_most_and_keeping_more_never_costs_less(data: st.DataObject) -> None:
    tokens = (1, 4, 9, 16)
    kept = [[data.draw(st.integers(0, count)) for _ in range(3)] for count in tokens]
    cost = plan_cost(16, 3, 8, tokens, kept, text_tokens=4)
    assert cost.sparse_flops <= cost.dense_flops
    scale, layer = data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2))
    more = [list(row) for row in kept]
    more[scale][layer] = tokens[scale]
    assert plan_cost(16, 3, 8, tokens, more, text_tokens=4).sparse_flops >= cost.sparse_flops
    dense = plan_cost(16, 3, 8, tokens, [[count] * 3 for count in tokens], text_tokens=4)
    assert dense.ratio == 1
