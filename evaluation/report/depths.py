"""What the depth rule makes of the calibration prompts."""

from __future__ import annotations

from toprovar.evaluation.report.section import Missing
from toprovar.plan import DepthRule
from toprovar.stats import CalibrationStats

__all__ = ["statistic_values"]


def statistic_values(stats: CalibrationStats | Missing, rule: DepthRule) -> tuple[float, ...] | Missing:
    """The rule's statistic of every calibration prompt, where the calibration holds it.

    Args:
        stats: The calibration.
        rule: The plan's rule.
    """
    if isinstance(stats, Missing):
        return stats
    # A statistic is measured in calibration under its own name, or not at all.
    tables = [getattr(prompt, rule.statistic, None) for prompt in stats.prompts]
    values = [table[rule.decided_after] for table in tables if isinstance(table, tuple)]
    if not values or len(values) < len(tables):
        return Missing(f"Not shown: the calibration holds no {rule.statistic} of its prompts.")
    return tuple(map(float, values))
