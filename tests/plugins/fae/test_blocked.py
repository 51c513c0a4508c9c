"""The CPU's way through the operator against the reference in float64, whatever the blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toprovar.plugins.fae.blocked import blocked_attention
from toprovar.plugins.fae.reference import attention_with_entropy

from .test_reference import inputs


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(1, 70), st.integers(1, 4000), st.integers(0, 2**31))
def test_blocks_change_nothing(queries: int, keys: int, scores: int, seed: int) -> None:
    q, k, v = inputs(queries, keys, seed=seed)
    actual, expected = blocked_attention(q, k, v, scores), attention_with_entropy(q, k, v)
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_its_error_is_at_most_twice_the_references(dtype: torch.dtype) -> None:
    q, k, v = inputs(50, 200, dtype=dtype)
    exact = attention_with_entropy(q.double(), k.double(), v.double())
    plain, blocked = attention_with_entropy(q, k, v), blocked_attention(q, k, v, scores=2000)
    for one, reference, truth in zip(blocked, plain, exact, strict=True):
        assert one.dtype == reference.dtype
        assert (one - truth).abs().max() <= 2 * (reference - truth).abs().max() + 1e-7


def test_extreme_scores_and_layout() -> None:
    q, k, v = inputs(6, 40, dtype=torch.float32)
    far = torch.zeros_like(k)
    far[:, :, 7] = 1e4
    output, entropy = blocked_attention(torch.ones_like(q), far, v, scores=100)
    assert torch.equal(entropy, torch.zeros_like(entropy))
    assert torch.equal(output, v[:, :, 7:8].expand_as(output))
    strided = q.transpose(1, 2).contiguous().transpose(1, 2)
    assert blocked_attention(strided, k, v)[0].stride() == strided.stride()
    q[0, 1, 3, 4] = torch.nan
    output, entropy = blocked_attention(q, k, v, scores=100)
    assert torch.isnan(entropy[0, 1, 3])
    assert torch.isfinite(entropy[1]).all()


def test_shapes_that_do_not_fit() -> None:
    q, k, v = inputs(5, 20)
    with pytest.raises(ValueError, match="keys and values must have the same shape"):
        blocked_attention(q, k[..., :-1], v)
