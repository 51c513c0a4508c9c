"""Every fused kernel against the plain version of the same step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from toprovar.models.geometry import resize_matrix
from toprovar.runtime.cuda.decoder_ops import PlainDecoderOps
from toprovar.runtime.cuda.ops import Branch, Norm, PlainOps, ResizeTables, Sampling
from toprovar.runtime.cuda.rows import Rows
from toprovar.runtime.cuda.tables import neighbours
from toprovar.runtime.cuda.text_buffer import FoldedText, KeptText

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
    text = KeptText(*both.unbind(2), torch.tensor(lengths, dtype=torch.int32), bias)
    out = torch.full_like(query, torch.nan)
    _, (_, _, other) = interpreter("attend_text", query, text, out.clone())
    PLAIN.attend_text(query, text, out)
    same(other, out)


@pytest.mark.parametrize(("dim", "tokens"), [(32, 16), (40, 16), (32, 24)])
@pytest.mark.parametrize("biased", [False, True])
def test_fold(biased: bool, dim: int, tokens: int, interpreter: Interpreter) -> None:
    text = torch.randn(2, tokens, 3, 2, HEADS, dim)[:, :, :, 1]
    shape = (200, HEADS, dim) if biased else (HEADS, dim, 200)
    weights = [torch.randn(shape).permute(1, 2, 0) if biased else torch.randn(shape) for _ in range(3)]
    biases = [torch.randn(200) for _ in range(3)] if biased else None
    out = torch.full((2, 3, HEADS, tokens, 200), torch.nan)
    _, (*_, other) = interpreter("fold", text, weights, biases, out.clone())
    PLAIN.fold(text, weights, biases, out)
    same(other, out)


@pytest.mark.parametrize("tokens", [16, 48, 64])
def test_weigh(tokens: int, interpreter: Interpreter) -> None:
    scores = torch.randn(2, 70, HEADS * tokens) * 5
    bias = torch.randn(2, 3, HEADS, tokens)[:, 1]
    bias[..., tokens // 2 :] = -torch.inf
    _, (other, *_) = interpreter("weigh", scores.clone(), bias, 0.3)
    PLAIN.weigh(scores, bias, 0.3)
    same(other, scores)


@pytest.mark.parametrize("tokens", [24, 32])
@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("kept", [1, 9, 16, 20])
def test_attend_folded(kept: int, adds: bool, tokens: int, interpreter: Interpreter) -> None:
    width = HEADS * 60
    keys, values = (torch.randn(2, 3, HEADS * tokens, width)[:, 1] * 0.1 for _ in range(2))
    bias = torch.randn(2, 3, HEADS, tokens)[:, 1]
    bias[1, :, 7:] = -torch.inf
    text, x = FoldedText(keys, values, bias), torch.randn(2, kept, width)
    buffers = [torch.full((2, kept, HEADS * tokens), torch.nan), torch.randn(2, kept, width)]
    _, (*_, scores, out, _) = interpreter("attend_folded", x, text, *(one.clone() for one in buffers), adds)
    PLAIN.attend_folded(x, text, *buffers, adds)
    same(scores, buffers[0])
    same(out, buffers[1])


def test_text_that_is_folded() -> None:
    """Gives what keys and values with the projections around them give."""
    text, dim = torch.randn(2, 16, HEADS, 2, 8), 8
    x, query, cross = torch.randn(2, 7, HEADS * dim), torch.randn(HEADS * dim, HEADS * dim), torch.randn(40, 40)
    bias, lengths = torch.randn(2, 40), torch.tensor([16, 5])
    known = torch.arange(16) < lengths.view(-1, 1, 1)
    keys, values = text.unbind(3)
    q = (x @ query.t() + bias[0]).unflatten(2, (HEADS, dim)).transpose(1, 2)
    k, v = (part.transpose(1, 2) for part in (keys, values))
    read = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=known.unsqueeze(1))
    expected = read.transpose(1, 2).flatten(2) @ cross.t() + bias[1]
    made = [torch.empty(2, 1, HEADS, 16, 40) for _ in range(2)]
    PLAIN.fold(keys.unsqueeze(2), [query.view(HEADS, dim, 40)], None, made[0])
    PLAIN.fold(values.unsqueeze(2), [cross.view(40, HEADS, dim).permute(1, 2, 0)], [bias[1]], made[1])
    added = torch.einsum("rthd,hd->rht", keys, bias[0].view(HEADS, dim)) * dim**-0.5
    folded = FoldedText(made[0].flatten(1, 3), made[1].flatten(1, 3), added.masked_fill(~known, -torch.inf))
    out = torch.empty(2, 7, 40)
    PLAIN.attend_folded(x, folded, torch.empty(2, 7, HEADS * 16), out)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-3)


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


def channels_last(*shape: int) -> Tensor:
    return (torch.randn(shape) * 2 + 3).contiguous(memory_format=torch.channels_last)


def same_moments(own: Tensor, expected: Tensor) -> None:
    """Of however many parts."""
    weight, shift = torch.ones(64), torch.zeros(64)
    same(PlainDecoderOps().affine(own, None, weight, shift), PlainDecoderOps().affine(expected, None, weight, shift))


@pytest.mark.parametrize("shape", [(2, 32, 3, 5), (1, 64, 40, 33)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_group_norm(biased: bool, shape: tuple[int, ...], interpreter: Interpreter) -> None:
    plain = PlainDecoderOps()
    x = channels_last(*shape)
    weight, shift = torch.randn(shape[1]), torch.randn(shape[1])
    bias = torch.randn(shape[1]) if biased else None
    moments, _ = interpreter("moments", x, bias, 32, ops="FusedDecoderOps")
    own, _ = interpreter("affine", moments, bias, weight, shift, ops="FusedDecoderOps")
    expected = plain.affine(plain.moments(x, bias, 32), bias, weight, shift)
    same(own, expected)
    strip = x[:, :, 1:3]
    same(interpreter("silu", strip, *expected, ops="FusedDecoderOps")[0], plain.silu(strip, *expected))
    _, (own, *_) = interpreter("silu", x.clone(), *expected, True, ops="FusedDecoderOps")
    same(own, plain.silu(x, *expected))


@pytest.mark.parametrize("groups", [0, 32])
@pytest.mark.parametrize("biased", [(False, False), (True, False), (False, True), (True, True)])
def test_add(biased: tuple[bool, bool], groups: int, interpreter: Interpreter) -> None:
    x, other = channels_last(2, 64, 11, 13), channels_last(2, 64, 11, 13)
    first, second = (torch.randn(64) if one else None for one in biased)
    (own, moments), _ = interpreter("add", x, first, other, second, groups, ops="FusedDecoderOps")
    expected, others = PlainDecoderOps().add(x, first, other, second, groups)
    same(own, expected)
    if groups:
        same_moments(moments, others)
    else:
        assert moments is None


@pytest.mark.parametrize("groups", [0, 32])
def test_interleave(groups: int, interpreter: Interpreter) -> None:
    x, bias = channels_last(2, 4 * 64, 8, 6), torch.randn(64)
    (own, moments), _ = interpreter("interleave", x, bias, groups, ops="FusedDecoderOps")
    expected, others = PlainDecoderOps().interleave(x, bias, groups)
    same(own, expected)
    if groups:
        same_moments(moments, others)
    else:
        assert moments is None
