"""Graph passes for TensorRT: one a file, pure, applied in the order of these tuples."""

from __future__ import annotations

from toprovar.compiler.passes import GraphPass
from toprovar.compiler.passes.embed_operator import embed_operator
from toprovar.compiler.passes.name_axes import name_axes
from toprovar.compiler.passes.transpose_keys import transpose_keys
from toprovar.compiler.tensorrt.passes.bfloat16_products import bfloat16_products
from toprovar.compiler.tensorrt.passes.cache_by_token import cache_by_token
from toprovar.compiler.tensorrt.passes.guard_empty_attention import guard_empty_attention
from toprovar.compiler.tensorrt.passes.integer_bits import integer_bits
from toprovar.compiler.tensorrt.passes.name_nodes import name_nodes
from toprovar.compiler.tensorrt.passes.rank_by_counting import rank_by_counting
from toprovar.compiler.tensorrt.passes.spread_masks import spread_masks

__all__ = ["PASSES", "Precision"]

Precision = str
"""``bfloat16`` or ``float32``: the type of matrix products, attention, convolutions and the cache."""

_SHAPED: tuple[GraphPass, ...] = (
    transpose_keys,
    guard_empty_attention,
    spread_masks,
    rank_by_counting,
    integer_bits,
    cache_by_token,
)
_NAMED: tuple[GraphPass, ...] = (embed_operator, name_nodes, name_axes)

PASSES: dict[Precision, tuple[GraphPass, ...]] = {
    "float32": (*_SHAPED, *_NAMED),
    "bfloat16": (*_SHAPED, bfloat16_products, *_NAMED),
}
