"""The marks of `toprovar eval`, read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toprovar import jsonfile
from toprovar.artefact import Artefact, Count, Fraction, NonNegative
from toprovar.conform import build
from toprovar.errors import ArtefactError
from toprovar.evaluation.report.section import Missing

__all__ = ["EVALUATION", "Mark", "Quality", "read_quality"]

EVALUATION = "report/eval.json"
"""Where a deployment keeps them."""


@dataclass(frozen=True)
class Mark(Artefact):
    """One way to run the plan, over a whole suite.

    Attributes:
        score: Mean over categories.
        categories: Share passed by category.
        seconds: Mean wall-clock of an image.
        flops: Mean transformer FLOPs over dense.
        psnr: Mean PSNR to the dense image in dB; None for dense itself.
    """

    score: Fraction
    categories: Mapping[str, Fraction]
    seconds: NonNegative
    flops: NonNegative
    psnr: float | None


@dataclass(frozen=True)
class Quality(Artefact):
    """What `toprovar eval` found.

    Attributes:
        suite: Name of the suite.
        prompts: How many of its prompts were drawn.
        dense: The dense model.
        sparse: The plan; None where the dense model alone was scored.
    """

    suite: str
    prompts: Count
    dense: Mark
    sparse: Mark | None


def read_quality(folder: Path) -> Quality | Missing:
    """Reads a deployment's marks.

    Args:
        folder: The deployment.
    """
    path = folder / EVALUATION
    remedy = f"`toprovar eval {folder} -o {path}` makes it"
    if not path.is_file():
        return Missing(f"Quality was not measured: there is no {EVALUATION}; {remedy}.")
    try:
        value = jsonfile.parse(jsonfile.read_text(path))
        marks = {"sparse": None} | _only(value, [field.name for field in dataclasses.fields(Quality)])
        for mode in ("dense", "sparse"):
            if isinstance(marks.get(mode), dict):
                marks[mode] = _only(marks[mode], [field.name for field in dataclasses.fields(Mark)])
        return build(Quality, marks)
    except ArtefactError as error:
        return Missing(f"Quality is not shown: {EVALUATION} cannot be read ({error}); {remedy}.")


def _only(value: object, names: list[str]) -> dict[str, Any]:
    """What the report uses: later versions may well say more."""
    if not isinstance(value, dict):
        raise ArtefactError("expected an object")
    return {name: value[name] for name in names if name in value}
