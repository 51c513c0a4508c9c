"""Prompt sets to calibrate with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from toprovar.errors import UsageError

__all__ = ["GENERAL_PROMPTS", "prompts_digest", "read_prompts"]

GENERAL_PROMPTS = (
    "a red apple on a wooden table, soft window light",
    "portrait of an old fisherman with a grey beard, photograph",
    "a city street at night in the rain, neon signs and reflections",
    "two golden retriever puppies in a basket",
    "a snowy mountain range at sunrise, wide angle",
    "a bowl of ramen with egg and spring onions, top view",
    "an astronaut riding a bicycle on the moon, oil painting",
    "a library with tall shelves and a spiral staircase",
    "close-up of a monarch butterfly on a purple flower",
    "a blue vintage car parked in front of a white house",
    "a minimalist poster of three overlapping circles",
    "a medieval castle on a cliff above the sea, fog",
    "a child flying a kite on a beach",
    "a robot watering plants in a greenhouse, digital art",
    "a stack of old books beside a burning candle",
    "the word OPEN on a shop sign made of brass",
)
"""Short prompts of many kinds, for checkpoints that bring none of their own."""


def read_prompts(path: Path) -> tuple[str, ...]:
    """Reads prompts from a text file, one a line; empty lines do not count.

    Raises:
        UsageError: the file is unreadable or holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as text ({error})", "expected prompts in UTF-8, one a line") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise UsageError(f"{path} holds no prompt; expected one a line", "write at least one, better sixteen")
    return prompts


def prompts_digest(prompts: Sequence[str]) -> str:
    """SHA-256 of a prompt set, in its order."""
    return hashlib.sha256("\n".join(prompts).encode()).hexdigest()
