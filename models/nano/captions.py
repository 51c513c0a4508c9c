"""What a caption asks for, and the English sentence that says it.

A caption is generated from its `Requirements`, never parsed: the same object later tells
ShapeEval what to look for in an image.
"""

from dataclasses import dataclass
from typing import Final

__all__ = [
    "CATEGORIES",
    "BackgroundRequirement",
    "ObjectRequirement",
    "Requirements",
    "caption",
]

CATEGORIES: Final = (
    "single object",
    "two objects",
    "counting",
    "colours",
    "position",
    "colour attribution",
    "texture",
)
"""The categories of ShapeEval: those of GenEval, and texture."""

_NUMBERS: Final = {2: "two", 3: "three", 4: "four"}
_PLURALS: Final = {"cross": "crosses"}
_RELATION_WORDS: Final = {
    "left of": "to the left of",
    "right of": "to the right of",
    "above": "above",
    "below": "below",
}
_SIDE_PREPOSITIONS: Final = {"left": "on", "right": "on", "top": "at", "bottom": "at"}


@dataclass(frozen=True, slots=True)
class ObjectRequirement:
    """One noun phrase of a caption; `None` marks what the caption leaves open.

    Attributes:
        shape: One of `attributes.SHAPES`.
        colour: One of `attributes.COLOURS`.
        texture: One of `attributes.TEXTURES`. Left open, training scenes show "solid".
        size: One of `attributes.SIZES`.
        region: One of `attributes.REGIONS`, where the centre has to lie.
        count: How many such objects, 1 to 4.
    """

    shape: str
    colour: str | None = None
    texture: str | None = None
    size: str | None = None
    region: str | None = None
    count: int = 1


@dataclass(frozen=True, slots=True)
class BackgroundRequirement:
    """The background a caption names.

    Attributes:
        colour: A key of `attributes.BACKGROUND_LEVELS`.
        texture: One of `attributes.BACKGROUND_TEXTURES` except "plain". Left open, training
            scenes show "plain".
    """

    colour: str
    texture: str | None = None


@dataclass(frozen=True, slots=True)
class Requirements:
    """All that a caption asks for.

    Attributes:
        category: One of `CATEGORIES`, or "composition" for the richer captions that only
            training uses.
        objects: One or two noun phrases.
        relation: One of `attributes.RELATIONS`; the first object stands in this relation to the
            second.
        background: The background, if the caption names one.
    """

    category: str
    objects: tuple[ObjectRequirement, ...]
    relation: str | None = None
    background: BackgroundRequirement | None = None


def caption(requirements: Requirements) -> str:
    """Says the requirements in English, e.g. "a red circle to the left of a green star"."""
    phrases = [_object_phrase(wanted) for wanted in requirements.objects]
    if requirements.relation is None:
        text = " and ".join(phrases)
    else:
        text = f" {_RELATION_WORDS[requirements.relation]} ".join(phrases)
    if requirements.background is not None:
        background = requirements.background
        words = f"{background.colour} background"
        if background.texture is not None:
            words = f"{background.texture} {words}"
        text = f"{text} on a {words}"
    return text


def _object_phrase(wanted: ObjectRequirement) -> str:
    noun = wanted.shape
    if wanted.count > 1:
        noun = _PLURALS.get(noun, noun + "s")
    adjectives = (wanted.size, wanted.texture, wanted.colour)
    words = [word for word in adjectives if word is not None] + [noun]
    if wanted.count > 1:
        words.insert(0, _NUMBERS[wanted.count])
    else:
        words.insert(0, "an" if words[0][0] in "aeiou" else "a")
    if wanted.region is not None:
        words += [_SIDE_PREPOSITIONS.get(wanted.region, "in"), "the", wanted.region]
    return " ".join(words)
