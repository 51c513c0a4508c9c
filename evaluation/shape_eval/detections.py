"""What ShapeEval sees in an image."""

from dataclasses import dataclass

__all__ = ["UNKNOWN_SHAPE", "DetectedBackground", "DetectedObject", "Detection"]

UNKNOWN_SHAPE = "unknown shape"


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """One object found in an image.

    Attributes:
        shape: One of `attributes.SHAPES`, or `UNKNOWN_SHAPE` if nothing fits.
        colour: One of `attributes.COLOURS`.
        texture: One of `attributes.TEXTURES`.
        size: One of `attributes.SIZES`.
        radius: In pixels, comparable to `SceneObject.radius`.
        x: Centre in pixels from the left edge.
        y: Centre in pixels from the top edge.
        fit: Intersection over union with the ideal shape, 0 to 1.
    """

    shape: str
    colour: str
    texture: str
    size: str
    radius: float
    x: float
    y: float
    fit: float

    def describe(self) -> str:
        """Names the object in words, e.g. "medium striped red circle at (70, 120)"."""
        name = f"{self.size} {self.texture} {self.colour} {self.shape}"
        return f"{name} at ({self.x:.0f}, {self.y:.0f})"


@dataclass(frozen=True, slots=True)
class DetectedBackground:
    """The background: a key of `BACKGROUND_LEVELS` and one of `BACKGROUND_TEXTURES`."""

    colour: str
    texture: str


@dataclass(frozen=True, slots=True)
class Detection:
    """Everything found in one image, objects from large to small."""

    objects: tuple[DetectedObject, ...]
    background: DetectedBackground
