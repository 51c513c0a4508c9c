"""The attributes of a synthetic scene: names, colours and sizes.

Everything here is data that the sampler, the renderer and ShapeEval share, so that what is drawn
and what is checked cannot drift apart. The trained `nano` checkpoint depends on these values.
"""

from typing import Final

__all__ = [
    "BACKGROUND_CONTRAST",
    "BACKGROUND_LEVELS",
    "BACKGROUND_PERIOD",
    "BACKGROUND_TEXTURES",
    "CANVAS",
    "COLOURS",
    "COLOUR_RGB",
    "CROSS_ARM",
    "CROSS_WIDTH",
    "DARK_FACTOR",
    "DOT_RADIUS",
    "MARGIN",
    "MAX_OBJECTS",
    "OPPOSITE",
    "OUTLINE_WIDTH",
    "REGIONS",
    "RELATIONS",
    "RING_HOLE",
    "SHAPES",
    "SIZES",
    "SIZE_RADII",
    "SPECKLE_CELL",
    "SPECKLE_SHARE",
    "SQUARE_HALF",
    "STAR_INNER",
    "TEXTURES",
    "TEXTURE_PERIOD",
    "TRIANGLE_HALF",
]

CANVAS: Final = 256
"""Side of the square canvas in pixels."""

MARGIN: Final = 6
"""Pixels kept free between an object and the border of the canvas."""

MAX_OBJECTS: Final = 4

SHAPES: Final = ("circle", "square", "triangle", "diamond", "star", "cross", "ring")

# Proportions, in units of the object's radius. Every shape lies in the box [-1, 1] x [-1, 1].
SQUARE_HALF: Final = 0.9
TRIANGLE_HALF: Final = 0.9  # half of the height; the base runs from -1 to 1
STAR_INNER: Final = 0.5
CROSS_ARM: Final = 0.95
CROSS_WIDTH: Final = 0.36
RING_HOLE: Final = 0.5

COLOUR_RGB: Final = {
    "red": (220, 30, 35),
    "orange": (245, 130, 20),
    "yellow": (240, 220, 30),
    "green": (35, 175, 60),
    "cyan": (30, 195, 205),
    "blue": (45, 80, 235),
    "purple": (140, 45, 210),
    "pink": (245, 85, 180),
}
"""sRGB of each colour, 0 to 255; neighbours differ by at least 25 degrees of hue."""

COLOURS: Final = tuple(COLOUR_RGB)

TEXTURES: Final = ("solid", "striped", "checkered", "dotted", "speckled", "outlined")

# All regular textures share this period and the phase of the canvas: it is the stride of nano's
# tokenizer, so a texture is the same pattern in every token of an object.
TEXTURE_PERIOD: Final = 8
DARK_FACTOR: Final = 0.5  # the second colour of a texture is the first one times this
DOT_RADIUS: Final = 2.4
SPECKLE_CELL: Final = 3
SPECKLE_SHARE: Final = 0.4  # share of dark cells
OUTLINE_WIDTH: Final = 4.0

BACKGROUND_LEVELS: Final = {"black": 22, "gray": 128, "white": 234}
"""Grey level of each background's plain part, 0 to 255."""

BACKGROUND_TEXTURES: Final = ("plain", "striped", "checkered", "dotted")
BACKGROUND_PERIOD: Final = 16
BACKGROUND_CONTRAST: Final = 32  # grey levels between a pattern and the plain part

SIZE_RADII: Final = {"small": (16.0, 20.0), "medium": (28.0, 36.0), "large": (48.0, 58.0)}
"""Lowest and highest radius of each size, in pixels."""

SIZES: Final = tuple(SIZE_RADII)

RELATIONS: Final = ("left of", "right of", "above", "below")
OPPOSITE: Final = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}

REGIONS: Final = (
    "top left",
    "top right",
    "bottom left",
    "bottom right",
    "center",
    "top",
    "bottom",
    "left",
    "right",
)
