"""What a reader of the report must not overlook."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from toprovar.evaluation.report.depths import statistic_values
from toprovar.evaluation.report.material import Material
from toprovar.evaluation.report.section import Missing
from toprovar.evaluation.report.studies import Study

__all__ = ["LARGEST_MOVE", "LARGEST_SHARE", "cautions"]

LARGEST_SHARE = 0.9
"""Share of the prompts at one depth above which the depth rule hardly tells prompts apart."""

LARGEST_MOVE = 0.02
"""Difference in score that is more than noise."""


def cautions(material: Material) -> tuple[str, ...]:
    """All that apply, a sentence or two each."""
    return tuple(line for check in _CHECKS for line in check(material))


def _unmeasured_quality(material: Material) -> Iterator[str]:
    quality = material.quality
    if isinstance(quality, Missing):
        yield quality.line
    elif quality.sparse is None:
        yield "Quality was measured of the dense model alone: report/eval.json was made with --dense."
    elif quality.dense.score - quality.sparse.score > LARGEST_MOVE:
        lost = quality.dense.score - quality.sparse.score
        yield (
            f"Pruning lowers the score of {quality.suite} by {lost:.3f}, from {quality.dense.score:.3f} to "
            f"{quality.sparse.score:.3f} (report/eval.json, {quality.prompts} prompts)."
        )


def _not_faster(material: Material) -> Iterator[str]:
    if material.plan.is_dense:
        yield "The plan computes every token: nothing is pruned."
    elif not isinstance(material.examples, Missing):
        dense, sparse = material.examples.dense.total, material.examples.sparse.total
        if sparse >= dense:
            yield (
                f"Sparse is not faster than dense on this machine: {sparse:.3g} s against {dense:.3g} s an image "
                f"({material.examples.source})."
            )


def _one_depth(material: Material) -> Iterator[str]:
    rule = material.plan.depth_rule
    values = None if rule is None else statistic_values(material.stats, rule)
    if rule is None or values is None or isinstance(values, Missing):
        return
    depth, count = Counter(map(rule.depth, values)).most_common(1)[0]
    share = count / len(values)
    if share > LARGEST_SHARE:
        yield (
            f"The depth rule sends {share:.0%} of the calibration prompts to depth {depth}: it hardly tells prompts "
            "apart."
        )


def _unstable_threshold(material: Material) -> Iterator[str]:
    for study in material.studies:
        if not isinstance(study, Study):
            continue
        scores = [row["score"] for row in study.rows if "tau" in row and isinstance(row.get("score"), int | float)]
        numbers = [float(score) for score in scores if score is not None]
        if numbers and max(numbers) - min(numbers) > LARGEST_MOVE:
            yield (
                f"The score moves by {max(numbers) - min(numbers):.3f} while tau is swept (report/studies/"
                f"{study.name}.json): the threshold has to be chosen with care."
            )


_CHECKS: tuple[Callable[[Material], Iterator[str]], ...] = (
    _unmeasured_quality,
    _not_faster,
    _one_depth,
    _unstable_threshold,
)
