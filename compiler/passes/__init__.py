"""Graph passes: one a file, pure, applied in the order of this tuple."""

from __future__ import annotations

from collections.abc import Callable

from toprovar.compiler.graph import Graph
from toprovar.compiler.passes.embed_operator import embed_operator
from toprovar.compiler.passes.name_axes import name_axes
from toprovar.compiler.passes.transpose_keys import transpose_keys
from toprovar.plan import SparsityPlan

__all__ = ["PASSES", "GraphPass"]

GraphPass = Callable[[Graph, SparsityPlan], Graph]

PASSES = (transpose_keys, embed_operator, name_axes)
