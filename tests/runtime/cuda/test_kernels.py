"""Every fused kernel against the plain version of the same step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from toprovar.models.geometry import resize_matrix
from toprovar.runtime.cuda.decoder_ops import PlainDecoderOps
from toprovar.runtime.cuda.ops import Branch, Norm, PlainOps, ResizeTables, Sampling, TextCache
from toprovar.runtime.cuda.rows import Rows
from toprovar.runtime.cuda.tables import neighbours

from .interpreter import Interpreter, interpreter

__all__ = ["interpreter"]

PLAIN = PlainOps()
IMAGES, HALVES, TOKENS, WIDTH, HEADS = 2, 2, 12, 40, 5


def rows(kept: int, ordered: bool = True, halves: int = HALVES) -> Rows:
    order = torch.stack([torch.randperm(TOKENS) for _ in range(IMAGES)]) if ordered else None
    return Rows(IMAGES, halves, TOKENS, kept, order)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def same(own: Any, expected: Any) -> None:
    torch.testing.assert_close(own, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("ordered", [False, True], ids=["grid", "ordered"])
@pytest.mark.parametrize("parts", ["branch", "gain", "norm", "branch norm", "gain modulated"])
def test_update_norm(parts: str, ordered: bool, dtype: torch.dtype, interpreter: Interpreter) -> None:
    own = rows(7 if ordered else TOKENS, ordered)
    count = own.rows * own.kept
    x = torch.randn(own.rows, TOKENS, WIDTH).to(dtype)
    gain = torch.randn(own.rows, 6, WIDTH)[:, 1] if "gain" in parts else None
    branch = Branch(torch.randn(count, WIDTH).to(dtype), gain, own) if parts != "norm" else None
    norm = None
    if "norm" in parts:
        norm = Norm(torch.randn(1, WIDTH), torch.randn(1, WIDTH), modulated=False)
    elif "modulated" in parts:
        norm = Norm(*torch.randn(own.rows, 6, WIDTH)[:, 2:4].unbind(1), modulated=True)
    out = torch.full((count, WIDTH), torch.nan).to(dtype)
    _, (other_x, *_, other_out) = interpreter("update_norm", x.clone(), branch, own, norm, out.clone())
    PLAIN.update_norm(x, branch, own, norm, out)
    tolerance = 2e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(other_x, x, rtol=0, atol=tolerance)
    torch.testing.assert_close(other_out, out, rtol=0, atol=tolerance, equal_nan=norm is None)


@pytest.mark.parametrize("dim", [8, 12])
@pytest.mark.parametrize("ordered", [False, True], ids=["grid", "ordered"])
def test_rotate_and_store(ordered: bool, dim: int, interpreter: Interpreter) -> None:
    own = rows(7 if ordered else TOKENS, ordered)
    qkv = torch.randn(own.rows, own.kept, 3, HEADS, dim)
    gain, rope = torch.rand(HEADS) + 1, torch.randn(2, TOKENS, dim // 2)
    cache = torch.zeros(2, 2 * own.rows, HEADS, 30, dim)[:, ::2]
    arguments = (gain, rope, own)
    _, (other, _, _, _, keys, values, _) = interpreter(
        "rotate_and_store", qkv.clone(), *arguments, *cache.clone().unbind(), 5
    )
    PLAIN.rotate_and_store(qkv, *arguments, *cache.unbind(), 5)
    same(other, qkv)
    same(torch.stack([keys, values]), cache)
    assert not cache[:, :, :, :5].any()
    assert not cache[:, :, :, 5 + own.kept :].any()


@pytest.mark.parametrize("kept", [1, 70])
def test_attend_text(kept: int, interpreter: Interpreter) -> None:
    dim, lengths = 16, [1, 40, 7, 33]
    query = torch.randn(4, kept, HEADS, dim)
    both = torch.randn(4, 40, 3, 2, HEADS, dim)[:, :, 1]
    places = torch.arange(40)
    bias = torch.where(places < torch.tensor(lengths).view(-1, 1, 1, 1), 0.0, torch.finfo(torch.float32).min)
    text = TextCache(*both.unbind(2), torch.tensor(lengths, dtype=torch.int32), bias)
    out = torch.full_like(query, torch.nan)
    _, (_, _, other) = interpreter("attend_text", query, text, out.clone())
    PLAIN.attend_text(query, text, out)
    same(other, out)


@pytest.mark.parametrize("tokens", [1, 12, 130])
def test_order(tokens: int, interpreter: Interpreter) -> None:
    values = torch.randn(3, tokens)
    values[1] = torch.randint(-2, 2, (tokens,)).float() * 0.0 + torch.randint(-2, 2, (tokens,))
    values[2, ::5], values[2, 1::7] = torch.nan, -torch.inf
    own, _ = interpreter("order", values)
    assert torch.equal(own, values.argsort(dim=1, stable=True))


def test_deviation(interpreter: Interpreter) -> None:
    x = torch.randn(4, TOKENS, WIDTH)[::2]
    own, _ = interpreter("deviation", x)
    torch.testing.assert_close(own, PLAIN.deviation(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("start", [(1, 1), (2, 3), (3, 4), (5, 2)])
@pytest.mark.parametrize("kept", [0, 7])
def test_restore(kept: int, start: tuple[int, int], interpreter: Interpreter) -> None:
    own = rows(kept, ordered=kept > 0)
    row_matrix, column_matrix = resize_matrix(start[0], 3), resize_matrix(start[1], 4)
    parts = [torch.from_numpy(part) for matrix in (row_matrix, column_matrix) for part in neighbours(matrix)]
    tables = ResizeTables(torch.from_numpy(row_matrix), torch.from_numpy(column_matrix), *parts)
    x = torch.randn(own.rows, TOKENS, WIDTH)
    update = torch.randn(2 * own.rows, start[0] * start[1], WIDTH)[::2]
    _, (other, *_) = interpreter("restore", x.clone(), update, own, tables)
    PLAIN.restore(x, update, own, tables)
    same(other, x)


@pytest.mark.parametrize("halves", [1, 2])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("factor", [1, 2])
def test_sample(factor: int, guided: bool, halves: int, interpreter: Interpreter) -> None:
    depth = 8
    logits = torch.randn(IMAGES, halves, TOKENS, 2 * depth) * 3
    sampling = Sampling(torch.randn(IMAGES, TOKENS, depth) * 2, torch.tensor([3.0, 0.7, 2.0]))
    bits = torch.full((IMAGES, TOKENS, depth), 7, dtype=torch.uint8)
    codes, (*_, other) = interpreter("sample", logits, sampling, guided, 3, factor, bits.clone())
    expected = PLAIN.sample(logits, sampling, guided, 3, factor, bits)
    assert torch.equal(other, bits)
    same(codes, expected)


@pytest.mark.parametrize("shape", [(2, 32, 3, 5), (1, 64, 40, 33)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_group_norm(biased: bool, shape: tuple[int, ...], interpreter: Interpreter) -> None:
    plain = PlainDecoderOps()
    x = (torch.randn(shape) * 2 + 3).contiguous(memory_format=torch.channels_last)
    weight, shift = torch.randn(shape[1]), torch.randn(shape[1])
    bias = torch.randn(shape[1]) if biased else None
    own, _ = interpreter("statistics", x, bias, weight, shift, 32, ops="FusedDecoderOps")
    expected = plain.statistics(x, bias, weight, shift, 32)
    same(own, expected)
    strip = x[:, :, 1:3]
    same(interpreter("silu", strip, *expected, ops="FusedDecoderOps")[0], plain.silu(strip, *expected))


@pytest.mark.parametrize("given", range(1, 8))
def test_add(given: int, interpreter: Interpreter) -> None:
    x, other = (torch.randn(2, 32, 5, 3).contiguous(memory_format=torch.channels_last) for _ in range(2))
    parts: list[Tensor | None] = [torch.randn(32), other, torch.randn(32)]
    chosen = [part if given >> index & 1 else None for index, part in enumerate(parts)]
    own, _ = interpreter("add", x, *chosen, ops="FusedDecoderOps")
    same(own, PlainDecoderOps().add(x, *chosen))
