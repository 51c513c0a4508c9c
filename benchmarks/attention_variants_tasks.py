"""What ``attention_variants.py`` runs: variants of the kernels, cases to check, shapes to time.

Nothing here imports torch or the package, so that the parent process stays free of CUDA.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["CASES", "CHOSEN", "FLOAT32", "HOPPER", "TMA", "TRITON", "Case", "Shape", "Task", "tasks"]

#: Variant that leaves the tiles to ``choose_config``.
CHOSEN = "chosen"

#: Fields of ``HopperConfig`` that differ from its defaults.
HOPPER: dict[str, dict[str, Any]] = {
    "default": {},
    "no turns": {"turns": False},
    "no pin": {"pin": False},
    "pack early": {"pack_early": True},
    "release early": {"release_late": False},
    "no turns, pack early": {"turns": False, "pack_early": True},
    "bare": {"turns": False, "pin": False, "release_late": False},
    "turns, no pin, release early": {"pin": False, "release_late": False},
    "stages 3": {"stages": 3},
    "bn 64 stages 4": {"block_n": 64, "stages": 4},
    "bn 64 stages 4 no turns": {"block_n": 64, "stages": 4, "turns": False},
    "registers 232": {"registers": 232},
}
#: Positional fields of ``TritonConfig``; "aot" marks the tiles of the TensorRT plugin.
TRITON: dict[str, tuple[int, int, int, int]] = {
    "128x128 w8 s2": (128, 128, 8, 2),
    "128x64 w8 s3": (128, 64, 8, 3),
    "64x64 w4 s3": (64, 64, 4, 3),
    "64x64 w4 s2": (64, 64, 4, 2),
    "aot 64x32 w4 s2": (64, 32, 4, 2),
    "64x32 w4 s3": (64, 32, 4, 3),
    "64x128 w4 s2": (64, 128, 4, 2),
}
#: Positional arguments of ``attention_tma.attend``; "ws" is Triton's warp specialisation.
TMA: dict[str, tuple[int, int, int, int, bool]] = {
    "128x128 w8 s2": (128, 128, 8, 2, False),
    "128x128 w8 s3": (128, 128, 8, 3, False),
    "128x64 w8 s3": (128, 64, 8, 3, False),
    "64x64 w4 s3": (64, 64, 4, 3, False),
    "ws 64x128 w4 s2": (64, 128, 4, 2, True),
}
#: Positional fields of ``TritonConfig`` for float32, beside the chosen ones.
FLOAT32: dict[str, tuple[int, int, int, int, str]] = {"tf32x3 64x32 w4 s2": (64, 32, 4, 2, "tf32x3")}


@dataclass(frozen=True)
class Case:
    """Inputs of one check against the float64 reference.

    Attributes:
        batch: Images.
        heads: Attention heads.
        queries: Queries a head.
        pieces: Keys of each piece.
        head_dim: Head dimension.
        dtype: Name of the torch dtype.
        layout: Order of batch, heads, length and dim in memory: "bhld", "blhd" or "lbhd".
        gather: The queries are picked from a longer tensor by an index.
    """

    batch: int
    heads: int
    queries: int
    pieces: tuple[int, ...]
    head_dim: int
    dtype: str
    layout: str
    gather: bool

    def __str__(self) -> str:
        """Batch x heads, queries x keys of each piece, and the rest."""
        keys = "+".join(map(str, self.pieces))
        size = f"{self.batch}x{self.heads} {self.queries}x{keys} d{self.head_dim}"
        return f"{size} {self.dtype} {self.layout}{' gathered' if self.gather else ''}"


CASES = (
    Case(2, 3, 1, (1,), 128, "bfloat16", "bhld", False),
    Case(2, 3, 5, (21,), 128, "bfloat16", "blhd", False),
    Case(1, 2, 300, (129,), 128, "float16", "lbhd", False),
    Case(2, 4, 400, (1921, 400), 128, "bfloat16", "blhd", True),
    Case(2, 4, 1024, (1497, 1024), 64, "float16", "bhld", False),
    Case(1, 4, 257, (777,), 32, "bfloat16", "blhd", False),
    Case(1, 4, 130, (640, 1), 96, "float16", "bhld", False),
    Case(1, 2, 4096, (10521,), 128, "bfloat16", "blhd", False),
    Case(2, 4, 64, (85,), 32, "float32", "blhd", False),
    Case(1, 2, 100, (333, 100), 128, "float32", "bhld", True),
)
#: The case that checks every variant of the Hopper kernel: two pieces and an index.
_VARIED = CASES[3]


@dataclass(frozen=True)
class Shape:
    """One attention to time.

    Attributes:
        batch: Images, a guidance pair counting as two.
        heads: Attention heads.
        queries: Queries a head.
        keys: Keys a head.
        head_dim: Head dimension.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    head_dim: int

    def __str__(self) -> str:
        """Batch x heads, then queries x keys."""
        return f"{self.batch}x{self.heads} {self.queries}x{self.keys}"

    @property
    def flops(self) -> int:
        """Floating-point operations of the two matrix products."""
        return 4 * self.batch * self.heads * self.queries * self.keys * self.head_dim


@dataclass(frozen=True)
class Task:
    """One line of the log.

    Attributes:
        action: "check" and "extremes" judge a kernel; "float32" judges and times it; "time"
            times it and "torch" times torch's backends.
        kernel: "triton", "hopper" or "tma"; empty for torch.
        variant: Key of the kernel's table, or ``CHOSEN``.
        case: Inputs of a check.
        shape: Shape of anything that is timed.
        entropy: Compute the entropy too.
    """

    action: str
    kernel: str = ""
    variant: str = ""
    case: Case | None = None
    shape: Shape | None = None
    entropy: bool = True

    def __str__(self) -> str:
        """What a person needs to find the task again."""
        words = [self.action, self.kernel, self.variant, "" if self.entropy else "(no entropy)"]
        return " ".join(word for word in [*words, str(self.case or self.shape or "")] if word)


_SIDES = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
_KEYS = dict(zip(_SIDES, itertools.accumulate(side * side for side in _SIDES), strict=True))


def _scale(side: int, heads: int = 16) -> Shape:
    """A scale of Infinity, 16 heads for 2B and 28 for 8B, at a guidance pair."""
    return Shape(2, heads, side * side, _KEYS[side], 128)


def _checks() -> Iterator[Task]:
    for case in CASES:
        yield Task("check", "triton", CHOSEN if case.dtype == "float32" else "64x64 w4 s2", case)
    yield from (Task("check", "hopper", "default", case) for case in CASES if case.dtype != "float32")
    yield Task("extremes", "triton", "64x64 w4 s2")
    yield Task("extremes", "hopper", "default")
    yield from (Task("check", "hopper", variant, _VARIED) for variant in HOPPER if variant != "default")


def _timings() -> Iterator[Task]:
    largest, largest_8b = _scale(64), _scale(64, heads=28)
    yield Task("torch", shape=largest)
    yield from (Task("time", "hopper", variant, shape=largest) for variant in HOPPER)
    yield Task("time", "hopper", "default", shape=largest, entropy=False)
    yield Task("torch", shape=largest_8b)
    yield Task("time", "hopper", "default", shape=largest_8b)
    for side in (48, 40, 32, 24, 20, 16, 12, 8, 4, 1):
        shape = _scale(side)
        yield Task("torch", shape=shape)
        yield Task("time", "hopper", "default", shape=shape)
        if side <= 32:
            yield Task("time", "hopper", "bn 64 stages 4", shape=shape)
            small = ("64x64 w4 s3", "64x64 w4 s2", "64x32 w4 s3")
            yield from (Task("time", "triton", variant, shape=shape) for variant in small)
    yield from (Task("time", "triton", variant, shape=largest) for variant in TRITON)
    yield Task("time", "triton", "128x128 w8 s2", shape=largest, entropy=False)
    yield from (Task("time", "tma", variant, shape=largest) for variant in TMA)
    for head_dim in (32, 128):
        shape = Shape(2, 4, 256, 680, head_dim)
        yield from (Task("float32", "triton", variant, shape=shape) for variant in (CHOSEN, *FLOAT32))
    # Once more at the end, to see how far the clocks have drifted.
    yield Task("torch", shape=largest)
    yield Task("time", "hopper", "default", shape=largest)


def tasks() -> tuple[Task, ...]:
    """List the tasks in their order: correctness first, then what matters most.

    Returns:
        The tasks; their index is their name in the log.
    """
    return (*_checks(), *_timings())
