"""Dense images beside sparse ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from toprovar.evaluation.report.examples import Example
from toprovar.evaluation.report.material import Material
from toprovar.evaluation.report.overlay import picture_rows, show
from toprovar.evaluation.report.section import Missing, Picture, Section, Table
from toprovar.evaluation.report.style import png

__all__ = ["draw_images", "make"]

_TITLE = "Dense beside sparse"
_EXPLANATION = (
    "The same prompts and the same noise, with every token computed and by the plan. A high PSNR means that the plan "
    "changed little; a low one alone is no loss of quality, since a different image may suit the prompt as well."
)


def draw_images(examples: Sequence[Example]) -> Figure:
    """Pairs of images, two prompts a row.

    Args:
        examples: One at least.
    """
    figure, axes = picture_rows(-(-len(examples) // 2), 4, examples[0].dense.image, bar=False)
    for place, example in enumerate(examples):
        row, column = divmod(place, 2)
        left, right = axes[row, 2 * column], axes[row, 2 * column + 1]
        show(left, example.dense.image, f"prompt {place + 1}: dense")
        show(right, example.sparse.image, f"sparse, {_decibels(example)}")
    return figure


def make(material: Material) -> Section:
    """The section."""
    examples, scales = material.examples, len(material.plan.scales)
    if isinstance(examples, Missing):
        return Section("images", _TITLE, _EXPLANATION, notes=(examples.line,))
    model = material.manifest.model
    picture = Picture(
        "images",
        png(draw_images(examples.shown)),
        f"Images of {model.image_width} x {model.image_height} pixels, drawn here at up to 256; PSNR of the sparse "
        "image to the dense one, before rounding.",
        "drawn by this report, prompt i with seed i - 1",
    )
    rows = tuple(
        (
            f"{index}. {example.prompt}",
            _decibels(example),
            "never" if example.sparse.depth == scales else f"scale {example.sparse.depth}",
        )
        for index, example in enumerate(examples.shown, start=1)
    )
    return Section("images", _TITLE, _EXPLANATION, (picture,), (Table(("prompt", "PSNR", "sparse from"), rows),))


def _decibels(example: Example) -> str:
    return "equal" if math.isinf(example.psnr) else f"{example.psnr:.1f} dB"
