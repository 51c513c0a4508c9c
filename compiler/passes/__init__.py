"""Graph passes: one a file, pure, applied in the order of this tuple."""

from toprovar.compiler.passes.embed_operator import embed_operator
from toprovar.compiler.passes.name_axes import name_axes
from toprovar.compiler.passes.transpose_keys import transpose_keys

__all__ = ["PASSES"]

PASSES = (transpose_keys, embed_operator, name_axes)
