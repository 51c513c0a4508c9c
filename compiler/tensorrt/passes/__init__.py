"""Graph passes for TensorRT: one a file, pure, applied in the order of these tuples."""

from __future__ import annotations

import functools

from toprovar.compiler.passes import GraphPass
from toprovar.compiler.passes.embed_operator import embed_operator
from toprovar.compiler.passes.name_axes import name_axes
from toprovar.compiler.passes.transpose_keys import transpose_keys
from toprovar.compiler.tensorrt.passes.bfloat16_products import bfloat16_products
from toprovar.compiler.tensorrt.passes.cache_by_token import cache_by_token
from toprovar.compiler.tensorrt.passes.float8_products import float8_products
from toprovar.compiler.tensorrt.passes.guard_empty_attention import guard_empty_attention
from toprovar.compiler.tensorrt.passes.integer_bits import integer_bits
from toprovar.compiler.tensorrt.passes.name_nodes import name_nodes
from toprovar.compiler.tensorrt.passes.rank_by_counting import rank_by_counting
from toprovar.compiler.tensorrt.passes.spread_masks import spread_masks
from toprovar.errors import UsageError
from toprovar.input_ranges import InputRanges

__all__ = ["Precision", "passes_for"]

Precision = str
"""``float32`` or ``bfloat16``: the type of matrix products, attention, convolutions and the cache; or ``float8``:
as bfloat16, with the operands of the blocks' large products in eight bits."""

_SHAPED: tuple[GraphPass, ...] = (
    transpose_keys,
    guard_empty_attention,
    spread_masks,
    rank_by_counting,
    integer_bits,
    cache_by_token,
)
_NAMED: tuple[GraphPass, ...] = (embed_operator, name_nodes, name_axes)


def passes_for(precision: Precision, ranges: InputRanges | None = None) -> tuple[GraphPass, ...]:
    """The passes of a precision.

    Args:
        precision: of products and the cache.
        ranges: of the large products' inputs, which ``float8`` needs.

    Raises:
        UsageError: the precision is unknown, or lacks the ranges.
    """
    passes: dict[Precision, tuple[GraphPass, ...]] = {
        "float32": (*_SHAPED, *_NAMED),
        "bfloat16": (*_SHAPED, bfloat16_products, *_NAMED),
    }
    if ranges is not None:
        quantise = functools.partial(float8_products, ranges=ranges)
        passes["float8"] = (*_SHAPED, bfloat16_products, quantise, *_NAMED)
    elif precision == "float8":
        raise UsageError("float8 wants to know how large the products' inputs are", "give the ranges of the inputs")
    if precision not in passes:
        raise UsageError(f"unknown precision {precision!r}; expected one of float32, bfloat16, float8")
    return passes[precision]
