"""Synthetic scenes of coloured, textured shapes, and the sampler that pairs them with captions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from toprovar.models.nano import attributes
from toprovar.models.nano.captions import ObjectRequirement, Requirements, caption
from toprovar.models.nano.requirements_sampler import pick, sample_requirements

__all__ = [
    "Background",
    "CaptionedScene",
    "Scene",
    "SceneObject",
    "sample_captioned_scene",
    "sample_scene",
]

_GAP: Final = 14.0  # free pixels between the boxes of two objects: ShapeEval closes gaps below
_RELATION_SLOPE: Final = 0.6  # largest offset across a relation's axis per offset along it
_DRAWS: Final = 6  # uniform numbers whose mean places an object: half of all fall into the middle sixth
_SIDE: Final = 0.36  # "left" puts the centre left of this share of the canvas
_CENTER: Final = (0.45, 0.55)
_BACKGROUNDS: Final = tuple(attributes.BACKGROUND_LEVELS)
_CELLS: Final = {
    3: ("top", "bottom left", "bottom right"),
    4: ("top left", "top right", "bottom left", "bottom right"),
}
_AXIS: Final = {"left of": 0, "right of": 0, "above": 1, "below": 1}


@dataclass(frozen=True, slots=True)
class Background:
    """A neutral background: a key of `BACKGROUND_LEVELS` and one of `BACKGROUND_TEXTURES`."""

    colour: str
    texture: str


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object; it lies within the square of half side `radius` around its centre.

    Attributes:
        shape: One of `attributes.SHAPES`.
        colour: One of `attributes.COLOURS`.
        texture: One of `attributes.TEXTURES`.
        radius: In pixels.
        x: Centre in pixels from the left edge of the canvas.
        y: Centre in pixels from the top edge of the canvas.
    """

    shape: str
    colour: str
    texture: str
    radius: float
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Scene:
    """A background and 1 to 4 objects that do not overlap; `seed` fixes the speckles."""

    background: Background
    objects: tuple[SceneObject, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class CaptionedScene:
    """A scene, the caption that describes it and what that caption asks for."""

    scene: Scene
    text: str
    requirements: Requirements


def sample_captioned_scene(
    rng: np.random.Generator,
    exclude: frozenset[str] = frozenset(),
    category: str | None = None,
) -> CaptionedScene:
    """Draws a caption and a scene that fulfils it.

    Args:
        rng: Source of randomness; the same state gives the same result.
        exclude: Captions that must not be drawn, such as the prompts of an evaluation.
        category: See `sample_requirements`; drawn with the training weights if left out.

    Returns:
        The scene with its caption.
    """
    while True:
        requirements = sample_requirements(rng, category)
        text = caption(requirements)
        if text not in exclude:
            return CaptionedScene(sample_scene(rng, requirements), text, requirements)


def sample_scene(rng: np.random.Generator, requirements: Requirements) -> Scene:
    """Draws a scene that fulfils the requirements.

    What they leave open is random, except textures: an open texture is solid, and the background
    of a named colour is plain. There are no objects beyond those asked for. Where a place is open,
    it is most often the middle of what is allowed: one object in the centre, two side by side in
    the order of their names, three with one above two, four in the quadrants.
    """
    wanted = [one for one in requirements.objects for _ in range(one.count)]
    radii = _sample_radii(rng, requirements.objects)
    centres = _place(rng, radii, requirements)
    shared = {one: one.colour or pick(rng, attributes.COLOURS) for one in requirements.objects}
    objects = tuple(
        SceneObject(one.shape, shared[one], one.texture or "solid", radius, x, y)
        for one, radius, (x, y) in zip(wanted, radii, centres, strict=True)
    )
    return Scene(_sample_background(rng, requirements), objects, int(rng.random() * 2**31))


def _sample_background(rng: np.random.Generator, requirements: Requirements) -> Background:
    background = requirements.background
    if background is not None:
        return Background(background.colour, background.texture or "plain")
    texture = "plain" if rng.random() < 0.6 else pick(rng, attributes.BACKGROUND_TEXTURES[1:])
    return Background(pick(rng, _BACKGROUNDS), texture)


def _sample_radii(rng: np.random.Generator, objects: Sequence[ObjectRequirement]) -> list[float]:
    """Draws a size for every noun phrase and a radius for every object."""
    radii: list[float] = []
    alone = len(objects) == 1 and objects[0].count == 1
    large_elsewhere = any(one.size == "large" for one in objects)
    for one in objects:
        size = one.size
        if size is None:
            textured = one.texture not in (None, "solid")
            choices = ["medium"] if textured else ["small", "medium"]
            # At most one large object: two of them leave no room.
            if alone or (len(objects) == 2 and not large_elsewhere):
                choices.append("large")
            size = pick(rng, choices)
            large_elsewhere = large_elsewhere or size == "large"
        low, high = attributes.SIZE_RADII[size]
        if one.count == attributes.MAX_OBJECTS:
            high = 0.5 * (low + high)
        radii += [low + (high - low) * rng.random() for _ in range(one.count)]
    return radii


def _place(rng: np.random.Generator, radii: list[float], requirements: Requirements) -> list[tuple[float, float]]:
    """Draws a centre for every object.

    A scale's tokens are drawn independently of each other. Were any place as likely as any other, each would
    decide by itself whether the object is there, and images would have none or several; and of two shapes that
    may change places, half of all pairs would be two of a kind.
    """
    if len(radii) == 1:
        return [_place_one(rng, radii[0], requirements.objects[0].region, _SIDE * attributes.CANVAS)]
    if len(radii) == 2:
        return _place_pair(rng, radii, requirements.relation or "left of")
    middle = 0.5 * (attributes.CANVAS - _GAP)
    return [
        _place_one(rng, radius, region, middle - radius)
        for radius, region in zip(radii, _CELLS[len(radii)], strict=True)
    ]


def _place_one(rng: np.random.Generator, radius: float, region: str | None, near: float) -> tuple[float, float]:
    """Places an object; "left" and "top" end at `near` pixels, "right" and "bottom" begin as far from the end."""
    low = attributes.MARGIN + radius
    x_low = y_low = low
    x_high = y_high = attributes.CANVAS - low
    far = attributes.CANVAS - near
    if region == "center":
        x_low = y_low = _CENTER[0] * attributes.CANVAS
        x_high = y_high = _CENTER[1] * attributes.CANVAS
    elif region is not None:
        if "left" in region:
            x_high = near
        if "right" in region:
            x_low = far
        if "top" in region:
            y_high = near
        if "bottom" in region:
            y_low = far
    return _between(rng, x_low, x_high), _between(rng, y_low, y_high)


def _place_pair(rng: np.random.Generator, radii: Sequence[float], relation: str) -> list[tuple[float, float]]:
    """Places two objects so that the first stands in the relation to the second.

    The boxes are apart along the axis of the relation, and the offset across it is at most
    `_RELATION_SLOPE` times the offset along it.
    """
    reverse = relation in ("right of", "below")
    first, second = (radii[1], radii[0]) if reverse else (radii[0], radii[1])
    low_first, low_second = attributes.MARGIN + first, attributes.MARGIN + second
    high_first, high_second = attributes.CANVAS - low_first, attributes.CANVAS - low_second
    apart = first + second + _GAP
    along_first = _between(rng, low_first, high_second - apart)
    along_second = _between(rng, max(low_second, along_first + apart), high_second)
    reach = _RELATION_SLOPE * (along_second - along_first)
    across_first = _between(rng, low_first, high_first)
    # Objects near a corner may not have any partner within reach inside the margin.
    across_first = min(max(across_first, low_second - reach), high_second + reach)
    across_second = _between(rng, max(low_second, across_first - reach), min(high_second, across_first + reach))
    pair = [(along_first, across_first), (along_second, across_second)]
    if _AXIS[relation] == 1:
        pair = [(across, along) for along, across in pair]
    return pair[::-1] if reverse else pair


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number between two, most often near their middle."""
    return low + (high - low) * rng.random(_DRAWS).mean()
