"""The Triton kernel in Triton's interpreter, on the CPU.

The interpreter is chosen when Triton is imported, so the kernel runs in a process of its own.
It cannot multiply bfloat16: tests/gpu covers that type.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toprovar.plugins.fae.configs import TritonConfig
from toprovar.plugins.fae.reference import attention_with_entropy

pytest.importorskip("triton")

Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Kernel = Callable[..., tuple[torch.Tensor, torch.Tensor]]

TILES = TritonConfig(block_m=16, block_n=16, num_warps=4, num_stages=1)
SECONDS = 60  # a launch that takes longer hangs


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    """``launch``, interpreted in a child process that starts with the interpreter switched on."""
    from toprovar.plugins.fae.launcher import launch

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        pool.submit(int).result(SECONDS)

    def run(q: torch.Tensor, *pieces: tuple[torch.Tensor, torch.Tensor], **options: object) -> tuple[torch.Tensor, ...]:
        index = options.pop("query_index", None)
        output = options.pop("output", None)
        if output is None:
            rows = q.shape[2] if index is None else index.shape[1]
            output = torch.full((*q.shape[:2], rows, q.shape[3]), math.nan, dtype=q.dtype)
        options.setdefault("config", TILES)
        return pool.submit(launch, q, pieces, output, index, **options).result(SECONDS)

    yield run
    pool.shutdown()


def inputs(
    queries: int,
    keys: int,
    head_dim: int = 32,
    dtype: torch.dtype = torch.float32,
    *,
    batch: int = 1,
    heads: int = 2,
    seed: int = 0,
) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    rows = (queries, keys, keys)
    q, k, v = (torch.randn(batch, heads, n, head_dim, generator=generator) for n in rows)
    return (q * 2 / math.sqrt(head_dim)).to(dtype), k.to(dtype), v.to(dtype)


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What plain PyTorch computes in the inputs' own type: the yardstick of the error."""
    weights = torch.softmax(q @ k.transpose(-1, -2), -1)
    return weights @ v, -torch.special.xlogy(weights, weights).sum(-1)


def check(result: tuple[torch.Tensor, ...], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
    """In float32 within 1e-5 of float64; in half types at most twice plain PyTorch's error."""
    exact = attention_with_entropy(q.double(), k.double(), v.double())
    yardstick = plain(q, k, v)
    for ours, theirs, truth in zip(result, yardstick, exact, strict=True):
        error = (ours.double() - truth).abs().max().item()
        allowed = 1e-5 if q.dtype == torch.float32 else 2 * (theirs.double() - truth).abs().max().item() + 1e-5
        assert error <= allowed


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.sampled_from([32, 64, 96, 128]), st.booleans(), st.integers(0, 2**31))
def test_any_shape(kernel: Kernel, queries: int, keys: int, head_dim: int, half: bool, seed: int) -> None:
    q, k, v = inputs(queries, keys, head_dim, torch.float16 if half else torch.float32, seed=seed)
    output, entropy = kernel(q, (k, v))
    assert output.dtype == q.dtype
    assert entropy.dtype == torch.float32
    check((output, entropy), q, k, v)


@pytest.mark.parametrize("tiles", [(16, 64), (64, 16), (32, 32)], ids=lambda tiles: "x".join(map(str, tiles)))
def test_tiles_do_not_matter(kernel: Kernel, tiles: tuple[int, int]) -> None:
    q, k, v = inputs(33, 65, 64)
    check(kernel(q, (k, v), config=replace(TILES, block_m=tiles[0], block_n=tiles[1])), q, k, v)


@pytest.mark.parametrize("size", [0.0, 1.0, 1e4, -1e4])
@pytest.mark.parametrize("keys", [1, 16, 37])
def test_equal_scores(kernel: Kernel, size: float, keys: int) -> None:
    q, k, v = inputs(3, keys)
    output, entropy = kernel(torch.full_like(q, size), (torch.full_like(k, 1 / 32), v))
    assert torch.allclose(entropy, torch.tensor(math.log(keys)), rtol=0, atol=1e-5)
    assert torch.allclose(output, v.mean(2, keepdim=True), rtol=0, atol=1e-5)


def test_one_hot(kernel: Kernel) -> None:
    q, k, v = inputs(3, 50)
    far = torch.zeros_like(k)
    far[:, :, 33] = 1e4 / 32
    output, entropy = kernel(torch.ones_like(q), (far, v))
    assert torch.equal(entropy, torch.zeros_like(entropy))
    assert torch.equal(output, v[:, :, 33:34].expand_as(output))


def test_scores_up_to_1e4(kernel: Kernel) -> None:
    q, k, v = inputs(20, 50)
    q, k = q * 100, k * 30
    # Scores this large are themselves rounded to 1e-3, so plain PyTorch is the yardstick.
    exact = attention_with_entropy(q.double(), k.double(), v.double())
    for ours, theirs, truth in zip(kernel(q, (k, v)), plain(q, k, v), exact, strict=True):
        assert (ours - truth).abs().max() <= 2 * (theirs - truth).abs().max() + 1e-5


def test_a_zero_key_row(kernel: Kernel) -> None:
    q, k, v = inputs(5, 20)
    k[:, :, 4] = 0
    check(kernel(q, (k, v)), q, k, v)


@pytest.mark.parametrize("layout", ["blhd", "lbhd", "fused", "every-second-head", "transposed"])
def test_strides(kernel: Kernel, layout: str) -> None:
    tensors = inputs(21, 21, 32, batch=2, heads=4)
    if layout == "blhd":
        q, k, v = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors)
    elif layout == "lbhd":
        q, k, v = (x.permute(2, 0, 1, 3).contiguous().permute(1, 2, 0, 3) for x in tensors)
    elif layout == "fused":
        q, k, v = torch.stack([x.transpose(1, 2) for x in tensors], 2).permute(2, 0, 3, 1, 4).unbind(0)
    elif layout == "every-second-head":
        q, k, v = (x[:, ::2] for x in tensors)
    else:
        q, k, v = (x.transpose(2, 3).contiguous().transpose(2, 3) for x in tensors)
    output = torch.full((2, 21, q.shape[1], 32), math.nan).transpose(1, 2)
    result, entropy = kernel(q, (k, v), output=output)
    assert result.stride() == output.stride()
    check((result, entropy), q, k, v)


@pytest.mark.parametrize("sizes", [(1, 1), (16, 5), (37, 16), (5, 40)], ids=str)
def test_two_pieces_are_one(kernel: Kernel, sizes: tuple[int, int]) -> None:
    q, k, v = inputs(10, sum(sizes), 64)
    first, second = zip(k.split(sizes, 2), v.split(sizes, 2), strict=True)
    check(kernel(q, first, second), q, k, v)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_gathered_queries(kernel: Kernel, dtype: torch.dtype) -> None:
    q, k, v = inputs(30, 20, batch=2)
    index = torch.tensor([[29, 0, 7], [3, 3, 11]], dtype=dtype)
    kept = torch.stack([q[b, :, index[b].long()] for b in range(2)])
    check(kernel(q, (k, v), query_index=index), kept, k, v)


def test_head_mean(kernel: Kernel) -> None:
    q, k, v = inputs(9, 20, heads=3)
    _, entropy = kernel(q, (k, v), head_mean=True)
    assert torch.allclose(entropy, attention_with_entropy(q, k, v)[1].mean(1), rtol=0, atol=1e-5)


def test_no_queries(kernel: Kernel) -> None:
    q, k, v = inputs(0, 20)
    output, entropy = kernel(q, (k, v))
    assert output.shape == (1, 2, 0, 32)
    assert entropy.shape == (1, 2, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("place", "row"), [("q", 3), ("k", 3), ("k", 19), ("v", 19)])
def test_non_finite_in_non_finite_out(kernel: Kernel, value: float, place: str, row: int) -> None:
    tensors = dict(zip("qkv", inputs(5, 20, batch=2), strict=True))
    tensors[place][0, 1, row, 4] = value
    output, entropy = kernel(tensors["q"], (tensors["k"], tensors["v"]))
    assert not (torch.isfinite(output).all() and torch.isfinite(entropy).all())
    assert torch.isfinite(output[1]).all()
    assert torch.isfinite(entropy[1]).all()
