"""The closed vocabulary of scene captions and its encoding."""

from typing import Final

from toprovar.words import split

__all__ = ["ABOUT", "MAX_WORDS", "PADDING", "UNKNOWN", "WORDS", "encode"]

MAX_WORDS: Final = 24
"""Longest caption, in words."""

PADDING: Final = 0
UNKNOWN: Final = 1

# The order is part of the trained checkpoint: append, never insert.
WORDS: Final = (
    "<pad>",
    "<unk>",
    *("a", "an", "and", "two", "three", "four"),
    *("small", "medium", "large"),
    *("solid", "striped", "checkered", "dotted", "speckled", "outlined"),
    *("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"),
    *("circle", "square", "triangle", "diamond", "star", "cross", "ring"),
    *("circles", "squares", "triangles", "diamonds", "stars", "crosses", "rings"),
    *("to", "the", "of", "in", "on", "at", "above", "below"),
    *("left", "right", "top", "bottom", "center"),
    *("black", "gray", "white", "background"),
)

ABOUT: Final = (
    "numbers, sizes, textures, colours, shapes, positions and backgrounds, "
    "as in 'two small striped red stars on a gray background'"
)
"""What the words name, for whoever writes one that is not among them."""

_INDEX: Final = {word: index for index, word in enumerate(WORDS)}


def encode(text: str, length: int = MAX_WORDS) -> list[int]:
    """Turns a caption into word indices, padded at the end.

    Case and the punctuation `,` and `.` are ignored; a word outside `WORDS` becomes `UNKNOWN`.

    Args:
        text: The caption.
        length: Number of indices to return.

    Returns:
        `length` indices into `WORDS`.

    Raises:
        ValueError: The caption has more than `length` words.
    """
    words = split(text)
    if len(words) > length:
        raise ValueError(f"caption has {len(words)} words, at most {length} are possible; shorten it: {text!r}")
    indices = [_INDEX.get(word, UNKNOWN) for word in words]
    return indices + [PADDING] * (length - len(indices))
