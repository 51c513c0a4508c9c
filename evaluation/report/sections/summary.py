"""What was compiled, what it should cost, what it did cost here, and how good its images are."""

from __future__ import annotations

import math
import statistics

from toprovar.evaluation.report.material import Material
from toprovar.evaluation.report.quality import EVALUATION, Mark, Quality
from toprovar.evaluation.report.section import Missing, Section, Table
from toprovar.evaluation.report.units import flops_unit

__all__ = ["make"]

_EXPLANATION = (
    "What this deployment computes and what it saves, each number with the file or the measurement that it comes "
    "from. Predicted FLOPs are arithmetic and hold anywhere; seconds were measured on one machine and hold there."
)


def make(material: Material) -> Section:
    """The section."""
    tables = [
        Table(("", "value", "source"), (*_model(material), *_cost(material), *_measured(material)), words=True),
    ]
    if not isinstance(material.quality, Missing):
        tables.append(_marks(material.quality))
    return Section("summary", "Summary", _EXPLANATION, tables=tuple(tables))


def _model(material: Material) -> list[tuple[str, str, str]]:
    model, plan = material.manifest.model, material.plan
    tokens = sum(scale.tokens for scale in plan.scales)
    pruning = f"selector {plan.ranking.selector}, restoration {plan.restoration}"
    return [
        ("model", f"{model.source} ({model.family}, {model.layers} layers of width {model.width})", "manifest.json"),
        ("image", f"{model.image_width} x {model.image_height} pixels", "manifest.json"),
        ("schedule", f"{len(plan.scales)} scales, {tokens:,} tokens", "plan.json"),
        ("policy", f"{plan.policy}: {pruning}", "plan.json"),
    ]


def _cost(material: Material) -> list[tuple[str, str, str]]:
    cost = material.plan.cost
    factor, unit = flops_unit(cost.dense_flops)
    rows = [
        ("predicted, dense", f"{cost.dense_flops / factor:.3f} {unit} an image", "plan.json: cost"),
        (
            "predicted, sparse from the earliest depth",
            f"{cost.sparse_flops / factor:.3f} {unit} an image, {cost.ratio:.1%} of dense",
            "plan.json: cost",
        ),
    ]
    expected = material.plan.parameters.get("expected_flops")
    if expected is not None:
        rows.append(
            (
                "predicted, mean over calibration prompts",
                f"{float(expected):.1%} of dense FLOPs",
                "plan.json: parameters.expected_flops",
            )
        )
    return rows


def _measured(material: Material) -> list[tuple[str, str, str]]:
    examples = material.examples
    if isinstance(examples, Missing):
        return [("measured", "nothing", examples.line.replace("`", ""))]
    dense, sparse = examples.dense.total, examples.sparse.total
    psnrs = [example.psnr for example in examples.shown]
    equal = sum(map(math.isinf, psnrs))
    different = [value for value in psnrs if math.isfinite(value)]
    likeness = f"{statistics.fmean(different):.1f} dB, mean of {len(different)}" if different else ""
    if equal:
        likeness += f"{', ' if likeness else ''}{equal} of {len(psnrs)} equal"
    return [
        ("measured, dense", f"{dense:.3g} s an image", examples.source),
        ("measured, sparse", f"{sparse:.3g} s an image, {dense / sparse:.2f} times as fast", examples.source),
        ("PSNR, sparse to dense image", likeness, f"{len(psnrs)} example prompts of this report"),
    ]


def _marks(quality: Quality) -> Table:
    modes = {"dense": quality.dense} | ({"sparse": quality.sparse} if quality.sparse else {})
    marks = list(modes.values())
    rows = [("score, 0 to 1", *(f"{mark.score:.3f}" for mark in marks))]
    rows += [(f"{name}, share passed", *(_category(mark, name) for mark in marks)) for name in quality.dense.categories]
    rows += [
        ("seconds an image", *(f"{mark.seconds:.3g} s" for mark in marks)),
        ("transformer FLOPs, of dense", *(f"{mark.flops:.1%}" for mark in marks)),
        ("PSNR to the dense image", *("" if mark.psnr is None else f"{mark.psnr:.1f} dB" for mark in marks)),
    ]
    caption = f"Quality: the suite {quality.suite}, {quality.prompts} prompts, one image each. Source: {EVALUATION}"
    return Table(("", *modes), tuple(rows), caption)


def _category(mark: Mark, name: str) -> str:
    return f"{mark.categories[name]:.3f}" if name in mark.categories else ""
