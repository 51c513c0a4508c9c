"""Numbers of eight bits (E4M3) with fixed scales, and which products are computed in them.

Every scale is a power of two. It is the same number in float32 and bfloat16, its reciprocal is exact, which TensorRT
multiplies by, and scaling rounds nothing, so that only the eight bits themselves do. A number in E4M3 keeps its four
digits whatever the scale, as long as it is neither too large nor too small: a scale that is up to twice what the range
asks for costs one of the sixteen binades at the small end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from toprovar.errors import CheckpointError, UsageError

__all__ = [
    "LARGEST",
    "LARGE_PRODUCTS",
    "LEAST",
    "RoundedWeight",
    "input_scale",
    "is_large",
    "output_factors",
    "round_weight",
]

LARGE_PRODUCTS = ("sa", "sa.proj", "ffn.fc1", "ffn.fc2")
"""Modules of a block whose input a large product reads; self-attention's is that of its queries, keys and values."""

LARGEST = 448.0
"""The largest number of E4M3."""

LEAST = 1e-12
"""What is nowhere larger than this is nothing."""

_HEADROOM = 1.25
"""How much larger than those that were measured the inputs of other prompts may be before they are cut off; nano's were
at most 1.18 times as large with 24 prompts as with 8 others."""


@dataclass(frozen=True)
class RoundedWeight:
    """A weight of a product.

    Attributes:
        values: E4M3 [in, out].
        factors: powers of two by which the product's outputs are to be multiplied, float32 [out].
    """

    values: np.ndarray
    factors: np.ndarray

    def matrix(self) -> np.ndarray:
        """What it stands for, float32 [in, out]."""
        return self.values.astype(np.float32) * self.factors


def is_large(module: str) -> bool:
    """Whether a module, by its dotted name, is one of `LARGE_PRODUCTS`."""
    return module.endswith(tuple(f".{end}" for end in LARGE_PRODUCTS))


def input_scale(largest: float, module: str) -> float:
    """What an input is divided by before it is rounded.

    Args:
        largest: its largest magnitude.
        module: what it is given to, for the error.

    Raises:
        UsageError: the magnitude is not finite, or nothing.
    """
    if not np.isfinite(largest):
        raise UsageError(
            f"the input of {module} is not finite in fp32, so that fp8 finds no scale for it",
            "compile with --precision bf16, and check the checkpoint",
        )
    if largest < LEAST:
        raise UsageError(
            f"the input of {module} is zero with every prompt, so that fp8 finds no scale for it",
            "compile with --precision bf16, or give other prompts with --prompts",
        )
    return float(_power_of_two(np.float64(largest) * _HEADROOM / LARGEST))


def output_factors(weight: np.ndarray, name: str) -> np.ndarray:
    """The factors that a weight [in, out] is rounded with, float32 [out].

    Raises:
        CheckpointError: a number is not finite.
    """
    largest = np.abs(weight).max(0).astype(np.float64)
    if not np.isfinite(largest).all():
        raise CheckpointError(
            f"{name} holds numbers that are not finite; expected finite ones", "download the checkpoint again"
        )
    return np.where(largest < LEAST, 1.0, _power_of_two(np.maximum(largest, LEAST) / LARGEST)).astype(np.float32)


def round_weight(weight: np.ndarray, name: str) -> RoundedWeight:
    """Rounds a weight [in, out], each output's share by a factor of its own.

    Raises:
        CheckpointError: a number is not finite.
    """
    weight = weight.astype(np.float32)
    factors = output_factors(weight, name)
    return RoundedWeight((weight / factors).astype(ir.DataType.FLOAT8E4M3FN.numpy()), factors)


def _power_of_two(least: np.ndarray) -> np.ndarray:
    """The smallest power of two that is at least as large."""
    mantissa, exponent = np.frexp(least)
    return np.ldexp(1.0, exponent - (mantissa == 0.5))
