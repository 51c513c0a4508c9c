"""What `toprovar study` does: a laboratory, a study, and its files."""

from __future__ import annotations

import datetime
import json
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from toprovar import __version__
from toprovar.console import results
from toprovar.evaluation.report.style import png, quiet
from toprovar.extensions import STUDIES
from toprovar.jsonfile import write_text
from toprovar.machine import describe_processor
from toprovar.pipeline.subject import Subject
from toprovar.progress import Stages
from toprovar.studies.base import Study
from toprovar.studies.laboratory import Laboratory

__all__ = ["print_study", "run_study"]

_ENOUGH = 8
_FEW = " Few prompts: an attempt, whose intervals are narrower than they should be."
_DEFAULTS = {"model": "nano", "resolution": None, "suite": "shapes", "limit": None, "seed": 0, "backend": "onnxruntime"}


def run_study(
    name: str,
    output: Path,
    *,
    model: str = "nano",
    resolution: str | None = None,
    suite: str = "shapes",
    limit: int | None = None,
    seed: int = 0,
    backend: str = "onnxruntime",
) -> dict[str, Any]:
    """Runs one study and writes NAME.json and NAME.png.

    Args:
        name: of the study.
        output: folder to write into.
        model: what to study.
        resolution: size of its images; the model's own if None.
        suite: what judges the images.
        limit: prompts of the suite at most.
        seed: of the calibration.
        backend: engine that draws.

    Returns:
        What the JSON file holds.

    Raises:
        ToProVARError: no such study, or anything else that the user can mend.
    """
    study: Study = STUDIES.load(name)
    with tempfile.TemporaryDirectory(prefix="toprovar-study-") as work, Stages() as stages, quiet():
        with stages.stage("load"):
            subject = Subject.open(model, resolution=resolution)
        finding = study.run(Laboratory(subject, Path(work), stages, suite, seed, backend=backend), limit)
        picture = png(finding.figure)
    given = {"model": model, "resolution": resolution, "suite": suite, "limit": limit, "seed": seed, "backend": backend}
    options = [f"--{key} {shlex.quote(str(value))}" for key, value in given.items() if value != _DEFAULTS[key]]
    made = {
        "title": study.title,
        "question": study.question,
        "caption": finding.answer + (_FEW if limit is not None and limit < _ENOUGH else ""),
        "command": " ".join(["toprovar study", name, *options]),
        "machine": _machine(backend, subject),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "toprovar": __version__,
        "rows": [dict(row) for row in finding.rows],
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.png").write_bytes(picture)
    write_text(output / f"{name}.json", json.dumps(made, indent=1, allow_nan=False))
    return made


def _machine(backend: str, subject: Subject) -> str:
    """What drew the images, and the GPU where the model itself ran on one."""
    processor = describe_processor()
    if subject.device.type != "cuda":
        return processor
    gpu = torch.cuda.get_device_name(subject.device)
    return f"{gpu} (images: the torch backend in fp32)" if backend == "torch" else f"{processor}; calibration on {gpu}"


def print_study(made: Mapping[str, Any]) -> None:
    """Prints a study's table on stdout.

    Args:
        made: what `run_study` returns.
    """
    rows = made["rows"]
    table = Table(title=made["title"])
    for column in rows[0] if rows else ():
        words = any(isinstance(row[column], str) for row in rows)
        table.add_column(str(column), justify="left" if words else "right")
    for row in rows:
        table.add_row(*("" if value is None else _shown(value) for value in row.values()))
    results().print(table)


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
