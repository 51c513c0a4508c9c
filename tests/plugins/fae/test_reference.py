"""The reference against the definition of entropy, written another way, in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toprovar.plugins.fae.reference import attention_with_entropy


def definition(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """softmax and -sum a log a, key by key, in extended precision."""
    q, k, v = (x.double().numpy().astype(np.longdouble) for x in (q, k, v))
    scores = np.einsum("bhqd,bhkd->bhqk", q, k)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    logs = np.log(np.where(weights > 0, weights, 1))
    return np.einsum("bhqk,bhkd->bhqd", weights, v), -(weights * logs).sum(-1)


def inputs(
    queries: int, keys: int, head_dim: int = 32, dtype: torch.dtype = torch.float64, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((2, 3, queries, head_dim), (2, 3, keys, head_dim), (2, 3, keys, head_dim))
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return (q * 2 / math.sqrt(head_dim)).to(dtype), k.to(dtype), v.to(dtype)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.sampled_from([1, 8, 32, 96]), st.integers(0, 2**31))
def test_float64_is_the_definition(queries: int, keys: int, head_dim: int, seed: int) -> None:
    q, k, v = inputs(queries, keys, head_dim, seed=seed)
    output, entropy = attention_with_entropy(q, k, v)
    expected_output, expected_entropy = definition(q, k, v)
    assert output.dtype == entropy.dtype == torch.float64
    np.testing.assert_allclose(output.numpy(), expected_output.astype(float), rtol=0, atol=1e-12)
    np.testing.assert_allclose(entropy.numpy(), expected_entropy.astype(float), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_accumulates_in_float32(dtype: torch.dtype) -> None:
    q, k, v = inputs(50, 200, dtype=dtype)
    output, entropy = attention_with_entropy(q, k, v)
    expected_output, expected_entropy = attention_with_entropy(q.double(), k.double(), v.double())
    assert output.dtype == dtype
    assert entropy.dtype == torch.float32
    assert (entropy - expected_entropy).abs().max() < 1e-5
    # One rounding of the output and no more.
    assert (output - expected_output).abs().max() <= torch.finfo(dtype).eps * expected_output.abs().max() + 1e-5


def test_uniform_one_hot_and_single_key() -> None:
    q, k, v = inputs(5, 40, dtype=torch.float32)
    assert torch.allclose(attention_with_entropy(q, k * 0, v)[1], torch.tensor(math.log(40)), rtol=0, atol=1e-5)
    far = torch.zeros_like(k)
    far[:, :, 7] = 1e4
    output, entropy = attention_with_entropy(torch.ones_like(q), far, v)
    assert torch.equal(entropy, torch.zeros_like(entropy))
    assert torch.equal(output, v[:, :, 7:8].expand_as(output))
    assert torch.equal(attention_with_entropy(q, k[:, :, :1], v[:, :, :1])[1], torch.zeros(2, 3, 5))


def test_equal_scores_of_any_size_keep_their_entropy() -> None:
    for size in (1e-4, 1.0, 1e4, -1e4, 1e6):
        q = torch.full((1, 1, 2, 32), size)
        k = torch.full((1, 1, 50, 32), 1 / 32)
        _, entropy = attention_with_entropy(q, k, torch.randn(1, 1, 50, 32))
        assert torch.allclose(entropy, torch.tensor(math.log(50)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_non_finite_in_non_finite_out(value: float, place: str) -> None:
    tensors = dict(zip("qkv", inputs(5, 20, dtype=torch.float32), strict=True))
    tensors[place][0, 1, 3, 4] = value
    output, entropy = attention_with_entropy(**tensors)
    assert not (torch.isfinite(output).all() and torch.isfinite(entropy).all())
    assert torch.isfinite(output[1]).all()
    assert torch.isfinite(entropy[1]).all()
