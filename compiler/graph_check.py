"""How a deployment's graph compared with the model."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SMALLEST_EQUAL_BITS", "GraphCheck"]

SMALLEST_EQUAL_BITS = 0.999
"""Share of bits that must agree."""


@dataclass(frozen=True)
class GraphCheck:
    """How one call compared.

    Attributes:
        graph: name of the graph.
        scale: index of the scale; None outside the steps.
        passed: every output within its tolerance.
        worst: largest absolute error of the outputs that have a tolerance of their own.
        equal_bits: share of equal bits; None where the graph samples none.
        failures: outputs out of tolerance.
    """

    graph: str
    scale: int | None
    passed: bool
    worst: float
    equal_bits: float | None
    failures: tuple[str, ...]
