"""Predicted FLOPs of a plan: arithmetic alone, in plain Python.

Notation: C channels, K tokens that a layer computes, L keys that they attend to, T text tokens;
a multiply-add counts as 2 FLOPs. Of one block and one row of the batch:

    query, key, value and output projections of self-attention      8 K C^2
    query and output projections of cross-attention                 4 K C^2
    MLP of ratio 4                                                  16 K C^2
    scores and weighted sum of self-attention                       4 K L C
    scores and weighted sum of cross-attention                      4 K T C

L is what the layer itself kept at earlier scales plus its own K: a token that a layer leaves out
leaves no key in that layer's cache. Text keys and values, normalisation and modulation are left
out: they do not depend on the plan, or are linear in K and C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from toprovar.manifest import ModelRecord
from toprovar.plan import PlanCost, SparsityPlan

__all__ = ["block_flops", "head_flops", "plan_cost", "plan_share"]


def block_flops(width: int, kept: int, keys: int, text_tokens: int, rows: int) -> float:
    """FLOPs of one block at one scale, as in the module's formula.

    Args:
        width: Channels C.
        kept: Tokens K that the block computes.
        keys: Keys L that they attend to, their own included.
        text_tokens: Text tokens T.
        rows: Rows of the batch: 2 for one image with guidance.
    """
    per_token = 28 * width**2 + 4 * (keys + text_tokens) * width
    return float(rows * kept * per_token)


def head_flops(width: int, code_bits: int, tokens: int, rows: int) -> float:
    """FLOPs of the head at one scale: two logits a bit for every token, pruned or not.

    Args:
        width: Channels C.
        code_bits: Bits of a token's code.
        tokens: Tokens of the scale.
        rows: Rows of the batch.
    """
    return float(rows * tokens * 2 * width * 2 * code_bits)


def plan_cost(
    width: int,
    layers: int,
    code_bits: int,
    tokens: Sequence[int],
    kept: Sequence[Sequence[int]],
    text_tokens: int,
    rows: int | Sequence[int] = 2,
) -> PlanCost:
    """The cost of a table of kept counts against the dense model.

    Args:
        width: Channels C.
        layers: Layers of the model.
        code_bits: Bits of a token's code.
        tokens: Tokens of each scale.
        kept: Tokens that are computed, by scale and layer. A scale of which every layer is left
            out is left out altogether, its head too.
        text_tokens: Text tokens T.
        rows: Rows of the batch: 2 for one image with guidance; or those of each scale, where the
            unconditional half is not computed throughout. The largest is the dense model's.
    """
    by_scale = [rows] * len(tokens) if isinstance(rows, int) else list(rows)
    every = [[count] * layers for count in tokens]
    dense = _by_scale(width, code_bits, tokens, every, text_tokens, [max(by_scale)] * len(tokens))
    sparse = _by_scale(width, code_bits, tokens, kept, text_tokens, by_scale)
    return PlanCost(math.fsum(dense), math.fsum(sparse), tuple(dense), tuple(sparse))


def plan_share(plan: SparsityPlan, model: ModelRecord, depth: int, text_tokens: int) -> float:
    """FLOPs over dense of one image with guidance, which runs sparse from a depth on.

    Args:
        plan: what is computed.
        model: facts of the model.
        depth: the first scale that runs sparse.
        text_tokens: text tokens of its prompt.
    """
    scales = range(len(plan.scales))
    tokens = [scale.tokens for scale in plan.scales]
    kept = [plan.kept(scale, depth) for scale in scales]
    rows = [2 if plan.unconditional(scale, depth) == "full" else 1 for scale in scales]
    return plan_cost(model.width, model.layers, model.code_bits, tokens, kept, text_tokens, rows).ratio


def _by_scale(
    width: int,
    code_bits: int,
    tokens: Sequence[int],
    kept: Sequence[Sequence[int]],
    text_tokens: int,
    rows: Sequence[int],
) -> list[float]:
    cached = [0] * len(kept[0])
    costs = []
    for count, layers, row in zip(tokens, kept, rows, strict=True):
        cached = [before + own for before, own in zip(cached, layers, strict=True)]
        blocks = math.fsum(
            block_flops(width, own, keys, text_tokens, row) for own, keys in zip(layers, cached, strict=True)
        )
        head = head_flops(width, code_bits, count, row) if any(layers) else 0.0
        costs.append(blocks + head)
    return costs
