"""Graph passes: one a file, pure, applied in the order of this tuple."""

from toprovar.compiler.passes.embed_operator import embed_operator
from toprovar.compiler.passes.name_axes import name_axes

__all__ = ["PASSES"]

PASSES = (embed_operator, name_axes)
