"""Random caption requirements, by category."""

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np

from toprovar.models.nano import attributes
from toprovar.models.nano.captions import (
    BackgroundRequirement,
    ObjectRequirement,
    Requirements,
)

__all__ = ["pick", "sample_requirements"]

_Item = TypeVar("_Item")

# How often training shows each category. Counting, textures and pairs are the hardest to learn.
_TRAINING_WEIGHTS: Final = {
    "single object": 0.06,
    "two objects": 0.14,
    "counting": 0.18,
    "colours": 0.12,
    "position": 0.16,
    "colour attribution": 0.12,
    "texture": 0.14,
    "composition": 0.08,
}


def pick(rng: np.random.Generator, items: Sequence[_Item]) -> _Item:
    """Picks one item uniformly; some ten times faster than `rng.choice`."""
    return items[int(rng.random() * len(items))]


def sample_requirements(rng: np.random.Generator, category: str | None = None) -> Requirements:
    """Draws what a caption asks for.

    Args:
        rng: Source of randomness.
        category: One of `captions.CATEGORIES` or "composition"; drawn with the training weights
            if left out.

    Returns:
        The requirements, always such that a scene can fulfil them.

    Raises:
        ValueError: The category is unknown.
    """
    if category is None:
        category = _draw_category(rng)
    if category not in _TRAINING_WEIGHTS:
        raise ValueError(f"unknown category {category!r}; choose one of {', '.join(_TRAINING_WEIGHTS)}")
    if category in ("two objects", "colour attribution", "composition"):
        return _sample_pair(rng, category)
    if category == "position" and rng.random() < 0.5:
        return _sample_pair(rng, category)
    return _sample_kind(rng, category)


def _draw_category(rng: np.random.Generator) -> str:
    level = rng.random()
    for category, weight in _TRAINING_WEIGHTS.items():
        level -= weight
        if level < 0:
            return category
    return category


def _sample_kind(rng: np.random.Generator, category: str) -> Requirements:
    """One noun phrase: single object, colours, texture, counting, or position by region."""
    shape = pick(rng, attributes.SHAPES)
    colour_share = {"single object": 0.0, "colours": 1.0, "texture": 0.8}.get(category, 0.7)
    colour = _maybe(rng, colour_share, attributes.COLOURS)
    texture = None
    region = None
    count = 1
    sizes: Sequence[str] = attributes.SIZES
    if category == "texture":
        texture = _sample_texture(rng, shape)
        sizes = ("medium", "large")
    elif category == "counting":
        count = 2 + int(rng.random() * 3)
        if rng.random() < 0.15:
            texture = _sample_texture(rng, shape)
        sizes = ("small", "medium") if texture is None else ("medium",)
    elif category == "position":
        region = pick(rng, attributes.REGIONS)
    size = _maybe(rng, 0.25, sizes)
    wanted = ObjectRequirement(shape, colour, texture, size, region, count)
    return Requirements(category, (wanted,), None, _sample_background(rng, 0.35))


def _sample_pair(rng: np.random.Generator, category: str) -> Requirements:
    """Two noun phrases: two objects, colour attribution, composition, position by relation."""
    colour_share = {"two objects": 0.0, "position": 0.6}.get(category, 1.0)
    relation_share = {"position": 1.0, "composition": 0.5}.get(category, 0.0)
    first_shape = pick(rng, attributes.SHAPES)
    second_shape = pick(rng, attributes.SHAPES)
    while second_shape == first_shape and category != "composition":
        second_shape = pick(rng, attributes.SHAPES)
    first_colour = second_colour = None
    if rng.random() < colour_share:
        first_colour = pick(rng, attributes.COLOURS)
        second_colour = pick(rng, attributes.COLOURS)
        while second_colour == first_colour:
            second_colour = pick(rng, attributes.COLOURS)
    first_texture = second_texture = None
    if category == "composition":
        first_texture = _sample_texture(rng, first_shape) if rng.random() < 0.6 else None
        second_texture = _sample_texture(rng, second_shape) if rng.random() < 0.6 else None
    first_size = _maybe(rng, 0.2, _sizes_of(first_texture, attributes.SIZES))
    # Two large objects leave no room for a relation.
    second_sizes = ("small", "medium") if first_size == "large" else attributes.SIZES
    second_size = _maybe(rng, 0.2, _sizes_of(second_texture, second_sizes))
    relation = _maybe(rng, relation_share, attributes.RELATIONS)
    objects = (
        ObjectRequirement(first_shape, first_colour, first_texture, first_size),
        ObjectRequirement(second_shape, second_colour, second_texture, second_size),
    )
    return Requirements(category, objects, relation, _sample_background(rng, 0.2))


def _sizes_of(texture: str | None, sizes: Sequence[str]) -> Sequence[str]:
    """Small objects have too few pixels for a texture of period 8, so textured ones are larger."""
    return sizes if texture is None else tuple(size for size in sizes if size != "small")


def _sample_texture(rng: np.random.Generator, shape: str) -> str:
    # An outlined ring would be two thin rings: neither is told apart reliably.
    choices = attributes.TEXTURES[:-1] if shape == "ring" else attributes.TEXTURES
    return pick(rng, choices)


def _sample_background(rng: np.random.Generator, share: float) -> BackgroundRequirement | None:
    if rng.random() >= share:
        return None
    colour = pick(rng, tuple(attributes.BACKGROUND_LEVELS))
    return BackgroundRequirement(colour, _maybe(rng, 0.5, attributes.BACKGROUND_TEXTURES[1:]))


def _maybe(rng: np.random.Generator, share: float, items: Sequence[_Item]) -> _Item | None:
    return pick(rng, items) if rng.random() < share else None
