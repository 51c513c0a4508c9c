"""Where nano's weights lie, and how it samples unless a call says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["GUIDANCE", "PROMPTS", "RESOLUTION", "TEMPERATURE", "TOP_K", "TOP_P", "WEIGHTS"]

WEIGHTS: Final = Path(__file__).with_name("weights")

GUIDANCE: Final = 3.0
TEMPERATURE: Final = 0.5
TOP_K: Final = 900
TOP_P: Final = 0.97
RESOLUTION: Final = "0.25M"
PROMPTS: Final = 16
