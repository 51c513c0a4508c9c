"""The prompts of ShapeEval, drawn once and for all from fixed seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from toprovar.models.nano import attributes
from toprovar.models.nano.captions import CATEGORIES, Requirements, caption
from toprovar.models.nano.requirements_sampler import sample_requirements

__all__ = ["CALIBRATION_PROMPTS", "HELD_OUT", "PROMPTS", "PROMPTS_PER_CATEGORY", "ShapePrompt"]

PROMPTS_PER_CATEGORY: Final = 24
_SEED: Final = 20_260_101
_CALIBRATION_COUNT: Final = 64
_COUNTS: Final = (2, 3, 4)


@dataclass(frozen=True, slots=True)
class ShapePrompt:
    """A prompt and what its image has to show."""

    text: str
    requirements: Requirements


# The attribute that is spread evenly over the prompts of a category.
_STRATA: Final[dict[str, tuple[Sequence[object], Callable[[Requirements], object]]]] = {
    "single object": (attributes.SHAPES, lambda asked: asked.objects[0].shape),
    "two objects": (attributes.SHAPES, lambda asked: asked.objects[0].shape),
    "counting": (_COUNTS, lambda asked: asked.objects[0].count),
    "colours": (attributes.COLOURS, lambda asked: asked.objects[0].colour),
    "position": (
        attributes.RELATIONS + attributes.REGIONS,
        lambda asked: asked.relation or asked.objects[0].region,
    ),
    "colour attribution": (attributes.COLOURS, lambda asked: asked.objects[0].colour),
    "texture": (attributes.TEXTURES, lambda asked: asked.objects[0].texture),
}


def _draw(rng: np.random.Generator, category: str, index: int, taken: set[str]) -> ShapePrompt:
    values, value_of = _STRATA[category]
    while True:
        requirements = sample_requirements(rng, category)
        text = caption(requirements)
        if text not in taken and value_of(requirements) == values[index % len(values)]:
            taken.add(text)
            return ShapePrompt(text, requirements)


def _draw_all() -> tuple[tuple[ShapePrompt, ...], tuple[ShapePrompt, ...]]:
    rng = np.random.default_rng(_SEED)
    taken: set[str] = set()
    prompts = tuple(
        _draw(rng, category, index, taken) for category in CATEGORIES for index in range(PROMPTS_PER_CATEGORY)
    )
    calibration = tuple(
        _draw(rng, CATEGORIES[index % len(CATEGORIES)], index // len(CATEGORIES), taken)
        for index in range(_CALIBRATION_COUNT)
    )
    return prompts, calibration


_ALL: Final = _draw_all()

PROMPTS: Final = _ALL[0]
"""24 prompts of every category, in the order of `CATEGORIES`."""

CALIBRATION_PROMPTS: Final = _ALL[1]
"""64 prompts for calibration, none of them in `PROMPTS`; training may have seen them."""

HELD_OUT: Final = frozenset(prompt.text for prompt in PROMPTS)
"""Texts of `PROMPTS`, which training must not see."""
