"""How large the inputs of a model's large products become: what fixes the scales of fp8 graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from toprovar.artefact import Artefact, Count, Positive, Sha256

__all__ = ["INPUT_RANGES", "InputRanges"]

INPUT_RANGES = "report/input_ranges.json"
"""Where an `InputRanges` lies in a deployment."""


@dataclass(frozen=True)
class InputRanges(Artefact):
    """The largest magnitudes over all tokens, scales and prompts of dense generations in fp32.

    Attributes:
        model_sha256: the checkpoint's hash, as in the manifest.
        prompts: what was drawn, with seeds from 0 on; `features` where no words were given.
        scales: scales of each generation.
        largest: by the name of the module that the input is given to.
    """

    schema_version: Literal[1] = field(default=1, kw_only=True)
    model_sha256: Sha256
    prompts: tuple[str, ...]
    scales: Count
    largest: Mapping[str, Positive]
