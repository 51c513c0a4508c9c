"""Units that fit a number."""

from __future__ import annotations

__all__ = ["flops_unit"]


def flops_unit(most: float) -> tuple[float, str]:
    """What to divide FLOPs by, and the unit's name, so that the largest has few digits.

    Args:
        most: The largest number that is shown, in FLOPs.
    """
    for factor, name in ((1e12, "TFLOP"), (1e9, "GFLOP")):
        if most >= factor:
            return factor, name
    return 1e6, "MFLOP"
