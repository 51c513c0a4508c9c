"""Infinity's scale schedules: 15 aspect ratios at four resolutions.

A schedule lists the token grid (height, width) of every scale, coarse to fine. The tables are the ones
that Infinity was trained with (FoundationVision/Infinity, ``dynamic_resolution``): a resolution takes the
first 7, 10, 12 or 13 grids of its aspect ratio.
"""

from __future__ import annotations

from toprovar.errors import UsageError

__all__ = ["RESOLUTIONS", "Schedule", "aspect_ratios", "find_aspect_ratio", "full_schedule", "schedule"]

Schedule = tuple[tuple[int, int], ...]

RESOLUTIONS = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
"""Number of scales of each resolution, named by its pixels at 16 pixels a token."""

_TALL = {  # height:width
    "1:1": "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
    "5:4": "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    "4:3": "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    "3:2": "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    "7:4": "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    "2:1": "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    "5:2": "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    "3:1": "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}


def _grids(text: str) -> Schedule:
    return tuple((int(h), int(w)) for h, w in (grid.split("x") for grid in text.split()))


def _table() -> dict[str, Schedule]:
    """Grids by aspect ratio, named width:height as cameras and screens are."""
    table: dict[str, Schedule] = {}
    for name, text in _TALL.items():
        height, width = name.split(":")
        tall = _grids(text)
        table[f"{width}:{height}"] = tall
        table[f"{height}:{width}"] = tuple((w, h) for h, w in tall)
    return table


_TABLE = _table()


def aspect_ratios() -> tuple[str, ...]:
    """All aspect ratios as ``width:height``, squarest first."""
    return tuple(_TABLE)


def full_schedule(aspect_ratio: str) -> Schedule:
    """All 13 scales of an aspect ratio.

    Raises:
        UsageError: the aspect ratio is not one of `aspect_ratios`.
    """
    try:
        return _TABLE[aspect_ratio]
    except KeyError:
        raise UsageError(
            f"unknown aspect ratio {aspect_ratio!r}; expected width:height, one of {', '.join(_TABLE)}",
            hint="choose the nearest of these",
        ) from None


def schedule(aspect_ratio: str = "1:1", resolution: str = "1M") -> Schedule:
    """The scales of an aspect ratio at a resolution.

    Raises:
        UsageError: an unknown aspect ratio or resolution.
    """
    if resolution not in RESOLUTIONS:
        raise UsageError(
            f"unknown resolution {resolution!r}; expected one of {', '.join(RESOLUTIONS)}",
            hint="these are the pixel counts that Infinity was trained at",
        )
    return full_schedule(aspect_ratio)[: RESOLUTIONS[resolution]]


def find_aspect_ratio(grids: Schedule) -> str | None:
    """The aspect ratio whose schedule starts with `grids`; None for a schedule of one's own.

    A schedule shorter than four scales can belong to several; the squarest is returned.
    """
    for name, full in _TABLE.items():
        if full[: len(grids)] == tuple(grids):
            return name
    return None
