"""Folds the text into the products around the attention to it, and weighs folded scores."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

__all__ = ["FEW", "fold", "weigh", "weigh_few"]

FEW = 16
"""Tokens a row up to which their scores are computed in one launch with the softmax."""
_COLUMNS = 128


@triton.jit
def _fold(
    text, weights, biases, out, text_row, text_token, text_layer, text_head, weight_head, weight_dim, weight_column,
    out_row, columns, layers, HEADS: tl.constexpr, TOKENS: tl.constexpr, BLOCK_TOKENS: tl.constexpr, DIM: tl.constexpr,
    BLOCK_DIM: tl.constexpr, COLUMNS: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Some columns of one head of one layer of one row."""
    head = tl.program_id(1)
    layer = tl.program_id(2) % layers
    row = (tl.program_id(2) // layers).to(tl.int64)
    token = tl.arange(0, BLOCK_TOKENS)
    dim = tl.arange(0, BLOCK_DIM)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known, inside, real = dim < DIM, column < columns, token < TOKENS
    place = row * text_row + token.to(tl.int64)[:, None] * text_token
    place += layer * text_layer + head * text_head + dim[None, :]
    given = tl.load(text + place, mask=real[:, None] & known[None, :], other=0.0)
    weight = tl.multiple_of(tl.load(weights + layer).to(tl.pointer_type(out.dtype.element_ty)), 16)
    place = head * weight_head + dim[:, None] * weight_dim + column[None, :] * weight_column
    matrix = tl.load(weight + place, mask=known[:, None] & inside[None, :], other=0.0)
    folded = tl.dot(given, matrix, input_precision="ieee")
    if BIAS:
        bias = tl.load(biases + layer).to(tl.pointer_type(out.dtype.element_ty))
        folded += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :] / HEADS
    place = row * out_row + ((layer * HEADS + head).to(tl.int64) * TOKENS + token[:, None]) * columns + column[None, :]
    tl.store(out + place, folded.to(out.dtype.element_ty), mask=real[:, None] & inside[None, :])


def fold(
    text: torch.Tensor,
    weights: torch.Tensor,
    strides: tuple[int, ...],
    biases: torch.Tensor | None,
    out: torch.Tensor,
) -> None:
    """Launches; see `PlainOps.fold`.

    Args:
        text: [R, T, layers, H, D], dense in D.
        weights: addresses, int64 [layers], of matrices [H, D, C] in the type of `out`; multiples of 16.
        strides: of the matrices.
        biases: addresses, int64 [layers], of vectors [C] in the same type, or None.
        out: [R, layers, H, T, C], dense in the last four axes.
    """
    rows, tokens, layers, heads, dim = text.shape
    columns = out.shape[4]
    _fold[(triton.cdiv(columns, _COLUMNS), heads, rows * layers)](
        text, weights, biases if biases is not None else weights, out, *text.stride()[:4], *strides, out.stride(0),
        columns, layers, HEADS=heads, TOKENS=tokens, BLOCK_TOKENS=triton.next_power_of_2(tokens), DIM=dim,
        BLOCK_DIM=max(triton.next_power_of_2(dim), 16), COLUMNS=_COLUMNS, BIAS=biases is not None, num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["queries"])
def _weigh(
    scores, bias, queries, scale, bias_row, HEADS: tl.constexpr, TOKENS: tl.constexpr, BLOCK_TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Softmax of some queries' heads of one row; ``queries`` counts every head of one."""
    row = tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.arange(0, BLOCK_TOKENS)
    real = (token < TOKENS)[None, :]
    inside = (query < queries)[:, None] & real
    place = (row * queries + query[:, None]) * TOKENS + token[None, :]
    value = tl.load(scores + place, mask=inside, other=0.0).to(tl.float32) * scale
    place_of_bias = row * bias_row + (query % HEADS)[:, None] * TOKENS + token[None, :]
    value += tl.load(bias + place_of_bias, mask=real, other=float("-inf"))
    value = tl.exp(value - tl.max(value, 1)[:, None])
    value = value / tl.sum(value, 1)[:, None]
    tl.store(scores + place, value.to(scores.dtype.element_ty), mask=inside)


def weigh(scores: torch.Tensor, bias: torch.Tensor, scale: float) -> None:
    """Launches; see `PlainOps.weigh`.

    Args:
        scores: [R, K, H * T], contiguous.
        bias: fp32 [R, H, T], dense in the last two axes.
        scale: of the scores.
    """
    rows, heads, tokens = bias.shape
    block_tokens = triton.next_power_of_2(tokens)
    queries, block = scores.shape[1] * heads, 2048 // block_tokens
    _weigh[(triton.cdiv(queries, block), rows)](
        scores, bias, queries, scale, bias.stride(0),
        HEADS=heads, TOKENS=tokens, BLOCK_TOKENS=block_tokens, BLOCK=block, num_warps=4,
    )  # fmt: skip


@triton.jit(do_not_specialize=["kept"])
def _weigh_few(
    x, keys, bias, scores, kept, scale, keys_row, bias_row, HEADS: tl.constexpr, TOKENS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, WIDTH: tl.constexpr, FEW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All queries of one head of one row."""
    head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    query = tl.arange(0, FEW)
    token = tl.arange(0, BLOCK_TOKENS)
    real = token < TOKENS
    channel = tl.arange(0, BLOCK)
    x += (row * kept + query[:, None]) * WIDTH
    keys += row * keys_row + (head * TOKENS + token[:, None]) * WIDTH
    value = tl.zeros([FEW, BLOCK_TOKENS], tl.float32)
    for first in range(0, WIDTH, BLOCK):
        own = first + channel[None, :]
        given = tl.load(x + own, mask=(query < kept)[:, None] & (own < WIDTH), other=0.0)
        key = tl.load(keys + own, mask=real[:, None] & (own < WIDTH), other=0.0)
        value = tl.dot(given, key.T, value, input_precision="ieee")
    added = tl.load(bias + row * bias_row + head * TOKENS + token, mask=real, other=float("-inf"))
    value = value * scale + added[None, :]
    value = tl.exp(value - tl.max(value, 1)[:, None])
    value = value / tl.sum(value, 1)[:, None]
    place = ((row * kept + query[:, None]) * HEADS + head) * TOKENS + token[None, :]
    tl.store(scores + place, value.to(scores.dtype.element_ty), mask=(query < kept)[:, None] & real[None, :])


def weigh_few(x: torch.Tensor, keys: torch.Tensor, bias: torch.Tensor, scale: float, scores: torch.Tensor) -> None:
    """Scores of up to `FEW` tokens a row and their weights: libraries are slow at such products.

    Args:
        x: [R, K, C], contiguous.
        keys: [R, H * T, C], dense in the last two axes.
        bias: fp32 [R, H, T], likewise.
        scale: of the scores.
        scores: for the weights, [R, K, H * T], contiguous.
    """
    rows, kept, width = x.shape
    heads, tokens = bias.shape[1:]
    _weigh_few[(heads, rows)](
        x, keys, bias, scores, kept, scale, keys.stride(0), bias.stride(0),
        HEADS=heads, TOKENS=tokens, BLOCK_TOKENS=triton.next_power_of_2(tokens), WIDTH=width, FEW=FEW, BLOCK=256,
        num_warps=4, num_stages=4,
    )  # fmt: skip
