"""What FlashAttentionEntropy takes and gives: the single statement of its contract.

For every query the operator returns the attention output and the entropy of the
attention weights in one pass over the keys:

    a = softmax(q k^T),  o = a v,  entropy = -sum_j a_j log a_j   (nats)

The softmax scale is folded into ``q`` by the caller, so the operator has no attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["HEAD_DIMS", "SCHEMA", "OperatorSchema", "TensorSpec", "check_shapes"]

#: Head dimensions that the GPU kernel is built for; the reference takes any.
HEAD_DIMS = (32, 64, 96, 128)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the operator.

    Attributes:
        name: Name in every registration (torch, ONNX, TensorRT).
        axes: Names of the axes, outermost first.
        dtypes: Element types that are allowed, as torch and numpy spell them.
    """

    name: str
    axes: tuple[str, ...]
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class OperatorSchema:
    """Identity and signature of the operator.

    Attributes:
        domain: ONNX domain, and namespace of the torch operator and of the TensorRT plugin.
        name: ONNX operator type and TensorRT plugin name.
        torch_name: Name of the torch operator inside the namespace.
        version: Version of the contract.
        inputs: Inputs in order.
        outputs: Outputs in order.
    """

    domain: str
    name: str
    torch_name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs in order."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs in order."""
        return tuple(spec.name for spec in self.outputs)

    @property
    def torch_qualified_name(self) -> str:
        """Name of the torch operator, ``namespace::name``."""
        return f"{self.domain}::{self.torch_name}"

    @property
    def plugin_attributes(self) -> dict[str, str]:
        """Node attributes by which TensorRT's ONNX parser finds the plugin."""
        return {"plugin_namespace": self.domain, "plugin_version": str(self.version)}


_FLOATS = ("float32", "float16", "bfloat16")

SCHEMA = OperatorSchema(
    domain="toprovar",
    name="FlashAttentionEntropy",
    torch_name="flash_attention_entropy",
    version=1,
    inputs=(
        TensorSpec("q", ("batch", "heads", "queries", "head_dim"), _FLOATS),
        TensorSpec("k", ("batch", "heads", "keys", "head_dim"), _FLOATS),
        TensorSpec("v", ("batch", "heads", "keys", "head_dim"), _FLOATS),
    ),
    outputs=(
        TensorSpec("o", ("batch", "heads", "queries", "head_dim"), _FLOATS),
        TensorSpec("entropy", ("batch", "heads", "queries"), ("float32",)),
    ),
)


def check_shapes(q: Sequence[int], k: Sequence[int], v: Sequence[int]) -> None:
    """Check that three shapes fit together as queries, keys and values.

    Args:
        q: Shape of the queries, [batch, heads, queries, head_dim].
        k: Shape of the keys, [batch, heads, keys, head_dim].
        v: Shape of the values, same as the keys.

    Raises:
        ValueError: A shape has the wrong rank, no keys, or disagrees with another.
    """
    for spec, shape in zip(SCHEMA.inputs, (q, k, v), strict=True):
        if len(shape) != len(spec.axes):
            raise ValueError(
                f"{spec.name} has shape {tuple(shape)}, but {SCHEMA.name} needs "
                f"[{', '.join(spec.axes)}]: reshape or permute it first"
            )
    if tuple(k) != tuple(v):
        raise ValueError(
            f"k has shape {tuple(k)} and v {tuple(v)}, but keys and values must have the same shape: one value a key"
        )
    if (q[0], q[1], q[3]) != (k[0], k[1], k[3]):
        raise ValueError(
            f"q has shape {tuple(q)} and k {tuple(k)}, but batch, heads and head_dim must "
            "agree: expand shared keys with .expand(...), which copies nothing"
        )
    if k[2] < 1:
        raise ValueError("k has no rows, but a softmax needs at least one key")
