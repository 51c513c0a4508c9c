"""How much device memory building and running an engine will take, before it is tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from toprovar.compiler.tensorrt.contract import GraphFile
from toprovar.compiler.tensorrt.profiles import output_shapes
from toprovar.engines import EngineProfile
from toprovar.errors import BackendError

__all__ = ["MemoryEstimate", "estimate_memory", "fit_memory"]

_BYTES = {"float32": 4, "int32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "bool": 1}
_RESERVE = 1 << 30
"""CUDA's own share, and the kernels'."""
_WORKING = 6
"""Tensors as large as the largest input or output that a layer works on at once: the hidden layer of an MLP is four."""


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of device memory.

    Attributes:
        weights: of the graph.
        tensors: inputs and outputs of the largest profile.
        activations: rough size of what lies between.
    """

    weights: int
    tensors: int
    activations: int

    @property
    def resident(self) -> int:
        """With the weights on the device."""
        return self.weights + self.streamed

    @property
    def streamed(self) -> int:
        """With the weights in main memory."""
        return self.tensors + self.activations + _RESERVE


def estimate_memory(graph: GraphFile, profiles: Sequence[EngineProfile]) -> MemoryEstimate:
    """Estimates what an engine needs, from its graph and the largest shapes of its profiles."""
    totals, largest = [0], [0]
    for profile in profiles:
        shapes = {name: span.most for name, span in profile.shapes.items() if name in graph.types}
        outputs = output_shapes(graph.contract, profile, "most")
        known = {name: shape for name, shape in outputs.items() if None not in shape}
        sizes = [
            math.prod(size or 0 for size in shape) * _BYTES.get(graph.types[name], 4)
            for name, shape in (shapes | known).items()
        ]
        totals.append(sum(sizes))
        largest.append(max(sizes, default=0))
    return MemoryEstimate(graph.weight_bytes, max(totals), _WORKING * max(largest))


def fit_memory(name: str, estimate: MemoryEstimate, free: int) -> bool:
    """Whether the weights have to be streamed.

    Args:
        name: of the graph.
        estimate: what it needs.
        free: free device memory.

    Raises:
        BackendError: it does not fit even with its weights in main memory.
    """
    if estimate.resident <= free:
        return False
    if estimate.streamed <= free:
        return True
    raise BackendError(
        f"{name} needs about {estimate.streamed / 2**30:.1f} GiB of GPU memory beside its weights; "
        f"{free / 2**30:.1f} GiB are free",
        "free some, build for fewer images at once with --images, or use a larger GPU",
    )
