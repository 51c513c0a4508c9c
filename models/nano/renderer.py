"""Draws scenes as images, a whole batch at a time, from signed distances.

A signed distance is negative inside a shape and grows by one per pixel; half a pixel on both sides
of zero makes the antialiased edge. Textures have the phase of the canvas, so only speckles
differ from scene to scene.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from toprovar.models.nano import attributes
from toprovar.models.nano.scenes import Scene

__all__ = ["PackedScenes", "coverage", "pack", "render"]

_COLOUR_INDEX: Final = {name: index for index, name in enumerate(attributes.COLOURS)}
_SHAPE_INDEX: Final = {name: index for index, name in enumerate(attributes.SHAPES)}
_TEXTURE_INDEX: Final = {name: index for index, name in enumerate(attributes.TEXTURES)}
_BACKGROUND_INDEX: Final = {name: i for i, name in enumerate(attributes.BACKGROUND_TEXTURES)}
_OUTSIDE: Final = 1e3  # signed distance of an empty slot


@dataclass(frozen=True, slots=True)
class PackedScenes:
    """A batch of B scenes as tensors, with `attributes.MAX_OBJECTS` = 4 slots each.

    Attributes:
        shape: Indices into `attributes.SHAPES`, int64 [B, 4]; -1 marks an empty slot.
        colour: Indices into `attributes.COLOURS`, int64 [B, 4].
        texture: Indices into `attributes.TEXTURES`, int64 [B, 4].
        geometry: Centre x, centre y and radius in pixels, float32 [B, 4, 3].
        background_level: Grey level of the plain part, 0 to 255, float32 [B].
        background_texture: Indices into `attributes.BACKGROUND_TEXTURES`, int64 [B].
        seed: Seeds of the speckles, int64 [B].
    """

    shape: Tensor
    colour: Tensor
    texture: Tensor
    geometry: Tensor
    background_level: Tensor
    background_texture: Tensor
    seed: Tensor

    def to(self, device: torch.device | str) -> "PackedScenes":
        """Moves every tensor to the device."""
        return PackedScenes(
            shape=self.shape.to(device),
            colour=self.colour.to(device),
            texture=self.texture.to(device),
            geometry=self.geometry.to(device),
            background_level=self.background_level.to(device),
            background_texture=self.background_texture.to(device),
            seed=self.seed.to(device),
        )


def pack(scenes: Sequence[Scene]) -> PackedScenes:
    """Writes scenes into tensors on the CPU.

    Raises:
        ValueError: There is no scene, or one has more than `attributes.MAX_OBJECTS` objects.
    """
    if not scenes:
        raise ValueError("no scene to pack; give at least one")
    indices: list[list[tuple[int, int, int]]] = []
    geometry: list[list[tuple[float, float, float]]] = []
    for scene in scenes:
        empty = attributes.MAX_OBJECTS - len(scene.objects)
        if empty < 0:
            raise ValueError(
                f"a scene has {len(scene.objects)} objects, at most {attributes.MAX_OBJECTS} can be drawn; drop some"
            )
        indices.append(
            [(_SHAPE_INDEX[one.shape], _COLOUR_INDEX[one.colour], _TEXTURE_INDEX[one.texture]) for one in scene.objects]
            + [(-1, 0, 0)] * empty
        )
        geometry.append([(one.x, one.y, one.radius) for one in scene.objects] + [(0.0, 0.0, 1.0)] * empty)
    packed = torch.tensor(indices, dtype=torch.int64)
    levels = [attributes.BACKGROUND_LEVELS[scene.background.colour] for scene in scenes]
    textures = [_BACKGROUND_INDEX[scene.background.texture] for scene in scenes]
    return PackedScenes(
        shape=packed[..., 0],
        colour=packed[..., 1],
        texture=packed[..., 2],
        geometry=torch.tensor(geometry, dtype=torch.float32),
        background_level=torch.tensor(levels, dtype=torch.float32),
        background_texture=torch.tensor(textures, dtype=torch.int64),
        seed=torch.tensor([scene.seed for scene in scenes], dtype=torch.int64),
    )


def render(packed: PackedScenes, device: torch.device | str = "cpu") -> Tensor:
    """Draws a batch of scenes.

    The result is the same on every call; there is no randomness beyond the scenes' own seeds.

    Args:
        packed: The scenes, on any device.
        device: Where to draw.

    Returns:
        Images in [-1, 1], float32 [B, 3, 256, 256], RGB.
    """
    packed = packed.to(device)
    x, y = _pixel_centres(device)
    patterns = torch.stack(_regular_patterns(x, y, attributes.TEXTURE_PERIOD))
    speckles = _speckles(packed.seed)
    palette = torch.tensor(list(attributes.COLOUR_RGB.values()), dtype=torch.float32, device=device)
    image = _background(packed, x, y)[:, None].repeat(1, 3, 1, 1)
    for slot in range(attributes.MAX_OBJECTS):
        texture = packed.texture[:, slot]
        alpha = _slot_coverage(packed, slot, x, y)
        dark = patterns[texture.clamp(max=len(patterns) - 1)]
        dark = torch.where(_is(texture, _TEXTURE_INDEX["speckled"]), speckles, dark)
        dark = torch.where(_is(texture, _TEXTURE_INDEX["outlined"]), 0.0, dark)
        shade = 1 - (1 - attributes.DARK_FACTOR) * dark
        colour = palette[packed.colour[:, slot]]
        image = torch.lerp(image, colour[:, :, None, None] * shade[:, None], alpha[:, None])
    return image / 127.5 - 1


def coverage(packed: PackedScenes, device: torch.device | str = "cpu") -> Tensor:
    """How much of every pixel each object covers.

    Args:
        packed: The scenes, on any device.
        device: Where to draw.

    Returns:
        Shares in [0, 1], float32 [B, 4, 256, 256]; zero for empty slots. Objects do not overlap,
        so the shares of a pixel add up to at most one.
    """
    packed = packed.to(device)
    x, y = _pixel_centres(device)
    slots = range(attributes.MAX_OBJECTS)
    return torch.stack([_slot_coverage(packed, slot, x, y) for slot in slots], dim=1)


def _pixel_centres(device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Returns x as [1, 256] and y as [256, 1]."""
    centres = torch.arange(attributes.CANVAS, dtype=torch.float32, device=device) + 0.5
    return centres[None, :], centres[:, None]


def _is(index: Tensor, value: int) -> Tensor:
    return (index == value)[:, None, None]


def _slot_coverage(packed: PackedScenes, slot: int, x: Tensor, y: Tensor) -> Tensor:
    """Coverage of one object per scene, [B, 256, 256], hollow if its texture is "outlined"."""
    centre_x, centre_y, radius = packed.geometry[:, slot, :, None, None].unbind(1)
    distance = _signed_distance(packed.shape[:, slot], x - centre_x, y - centre_y, radius)
    alpha = (0.5 - distance).clamp(0, 1)
    hole = (0.5 - distance - attributes.OUTLINE_WIDTH).clamp(0, 1)
    outlined = _is(packed.texture[:, slot], _TEXTURE_INDEX["outlined"])
    return alpha - torch.where(outlined, hole, 0.0)


def _signed_distance(shape: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to each scene's shape.

    Args:
        shape: Indices into `attributes.SHAPES`, [B].
        x: Offset from the centre in pixels, [B, 1, 256].
        y: Offset from the centre in pixels, [B, 256, 1], growing downwards.
        radius: [B, 1, 1].

    Returns:
        [B, 256, 256]; `_OUTSIDE` everywhere for the index -1.
    """
    side_x, side_y = x.abs(), y.abs()
    centre_distance = torch.sqrt(x * x + y * y)
    far, near = torch.maximum(side_x, side_y), torch.minimum(side_x, side_y)
    # Order of attributes.SHAPES.
    distances = (
        centre_distance - radius,
        far - attributes.SQUARE_HALF * radius,
        _triangle(side_x, y, radius),
        (side_x + side_y - radius) * math.sqrt(0.5),
        _star(side_x, y, radius),
        # The bar that points to this pixel is the only one that matters.
        torch.maximum(far - attributes.CROSS_ARM * radius, near - attributes.CROSS_WIDTH * radius),
        torch.maximum(centre_distance - radius, attributes.RING_HOLE * radius - centre_distance),
    )
    result = torch.full_like(centre_distance, _OUTSIDE)
    for index, distance in enumerate(distances):
        result = torch.where(_is(shape, index), distance, result)
    return result


def _triangle(side_x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Isosceles, pointing up: apex (0, -h), base corners (-1, h) and (1, h), h = TRIANGLE_HALF."""
    half = attributes.TRIANGLE_HALF
    length = math.hypot(1.0, 2 * half)
    slanted = (2 * half * side_x - (y + half * radius)) / length
    return torch.maximum(slanted, y - half * radius)


def _star(side_x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Five-pointed star pointing up, exact distance.

    Source: Inigo Quilez, "2D distance functions", sdStar5.
    """
    cosine, sine = math.cos(math.pi / 5), math.sin(math.pi / 5)
    up = -y
    # Two reflections fold the plane into half a spike.
    fold = torch.clamp(cosine * side_x - sine * up, min=0)
    folded_x, folded_y = side_x - 2 * cosine * fold, up + 2 * sine * fold
    fold = torch.clamp(-cosine * folded_x - sine * folded_y, min=0)
    folded_x, folded_y = folded_x + 2 * cosine * fold, folded_y + 2 * sine * fold
    folded_x, folded_y = folded_x.abs(), folded_y - radius
    edge_x = attributes.STAR_INNER * sine
    edge_y = attributes.STAR_INNER * cosine - 1
    along = (folded_x * edge_x + folded_y * edge_y) / (edge_x * edge_x + edge_y * edge_y)
    along = torch.minimum(along.clamp(min=0), radius)
    distance = torch.hypot(folded_x - edge_x * along, folded_y - edge_y * along)
    return distance * torch.sign(folded_y * edge_x - folded_x * edge_y)


def _regular_patterns(x: Tensor, y: Tensor, period: int) -> list[Tensor]:
    """Dark shares of the plain, striped, checkered and dotted patterns, [256, 256] each."""
    half = period // 2
    odd_x, odd_y = (x // half) % 2, (y // half) % 2
    flat = torch.zeros_like(x + y)
    # Distance from the middle of the period's cell.
    from_dot = torch.hypot(x % period - half, y % period - half)
    dot = (attributes.DOT_RADIUS * period / attributes.TEXTURE_PERIOD + 0.5 - from_dot).clamp(0, 1)
    return [flat, odd_y + flat, (odd_x + odd_y) % 2, dot]


def _speckles(seed: Tensor) -> Tensor:
    """Dark cells at random places, 0 or 1, float32 [B, 256, 256]."""
    cell = torch.arange(attributes.CANVAS, device=seed.device) // attributes.SPECKLE_CELL
    index = cell[:, None] * attributes.CANVAS + cell[None, :]
    mixed = _hash(_hash(index)[None] ^ _hash(seed + 1)[:, None, None])
    return (mixed < attributes.SPECKLE_SHARE * 2**32).to(torch.float32)


def _hash(value: Tensor) -> Tensor:
    """Mixes the low 32 bits of an int64 tensor, following Chris Wellons' `lowbias32`.

    The multipliers are below 2**31, so that no product leaves int64.
    """
    low = 0xFFFFFFFF
    value = value & low
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & low
    value = ((value ^ (value >> 15)) * 0x046CA68B) & low
    return value ^ (value >> 16)


def _background(packed: PackedScenes, x: Tensor, y: Tensor) -> Tensor:
    """Grey levels, 0 to 255, [B, 256, 256]."""
    patterns = torch.stack(_regular_patterns(x, y, attributes.BACKGROUND_PERIOD))
    dark = patterns[packed.background_texture]
    level = packed.background_level[:, None, None]
    # A lighter second level on black and a darker one elsewhere stay within 0 to 255.
    step = torch.where(level < 64, attributes.BACKGROUND_CONTRAST, -attributes.BACKGROUND_CONTRAST)
    return level + step * dark
