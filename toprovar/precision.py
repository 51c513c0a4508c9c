"""What reduced precision does to a model's logits, as measured when it was compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from toprovar.artefact import Artefact, Count, NonNegative

__all__ = ["PRECISION", "PrecisionErrors"]

PRECISION = "report/precision.json"
"""Where a `PrecisionErrors` lies in a deployment."""


@dataclass(frozen=True)
class PrecisionErrors(Artefact):
    """Errors of the logits against the model's own modules in fp32, with the same codes at every scale.

    Attributes:
        machine: what computed them.
        prompts: calibration prompts that were run, densely.
        errors: by precision and scale, the root mean square of the difference over that of the logits.
    """

    schema_version: Literal[1] = field(default=1, kw_only=True)
    machine: str
    prompts: Count
    errors: Mapping[str, tuple[NonNegative, ...]]
