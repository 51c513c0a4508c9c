"""A picture that compares: dense beside sparse, prompt and times underneath."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Pair", "draw_grid"]

_COLUMNS = 4
_GAP = 4
_MARGIN = 24
_TEXT_SIZE = 15
_INK, _FAINT, _PAPER = (28, 28, 32), (110, 110, 118), (255, 255, 255)


@dataclass(frozen=True)
class Pair:
    """One prompt drawn twice from the same noise."""

    prompt: str
    dense: Image.Image
    sparse: Image.Image
    dense_seconds: float
    sparse_seconds: float


def draw_grid(pairs: Sequence[Pair], side: int = 192) -> Image.Image:
    """Lays pairs out in up to four columns.

    Args:
        pairs: at least one; all images of one shape.
        side: pixels of an image's longer side in the grid.
    """
    width, height = pairs[0].dense.size
    factor = side / max(width, height)
    width, height = round(width * factor), round(height * factor)
    font = ImageFont.load_default(_TEXT_SIZE)
    line = _TEXT_SIZE + 5
    cell_width = 2 * width + _GAP
    cell_height = height + 4 * line + 8
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    size = columns * (cell_width + _MARGIN) + _MARGIN, rows * (cell_height + _MARGIN) + _MARGIN
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, pair in enumerate(pairs):
        left = _MARGIN + index % columns * (cell_width + _MARGIN)
        top = _MARGIN + index // columns * (cell_height + _MARGIN)
        columns_of_pair = (
            (pair.dense, f"dense  {pair.dense_seconds:.2f} s", 0),
            (pair.sparse, f"sparse  {pair.sparse_seconds:.2f} s", width + _GAP),
        )
        for image, label, offset in columns_of_pair:
            sheet.paste(image.resize((width, height), Image.Resampling.LANCZOS), (left + offset, top))
            draw.text((left + offset, top + height + 4), label, _FAINT, font=font)
        wrapped = textwrap.wrap(pair.prompt, max(cell_width // 7, 16))[:3]
        draw.text((left, top + height + 4 + line), "\n".join(wrapped), _INK, font=font, spacing=5)
    return sheet
