"""What `toprovar study` does: a laboratory, a study, and its files."""

from __future__ import annotations

import datetime
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

from rich.table import Table

from toprovar import __version__
from toprovar.console import results
from toprovar.evaluation.report.style import png, quiet
from toprovar.extensions import STUDIES
from toprovar.jsonfile import write_text
from toprovar.laboratory import Laboratory
from toprovar.machine import describe_processor
from toprovar.progress import Stages
from toprovar.studies.base import Finding, Study
from toprovar.subject import Subject

__all__ = ["run_study"]


def run_study(
    name: str, output: Path, *, model: str = "nano", suite: str = "shapes", limit: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Runs one study and writes NAME.json and NAME.png.

    Args:
        name: of the study.
        output: folder to write into.
        model: what to study.
        suite: what judges the images.
        limit: prompts of the suite at most.
        seed: of the calibration.

    Returns:
        What the JSON file holds.

    Raises:
        ToProVARError: no such study, or anything else that the user can mend.
    """
    study: Study = STUDIES.load(name)
    with tempfile.TemporaryDirectory(prefix="toprovar-study-") as work, Stages() as stages, quiet():
        with stages.stage("load"):
            subject = Subject.open(model)
        finding = study.run(Laboratory(subject, Path(work), stages, suite, seed), limit)
        picture = png(finding.figure)
    options = [f"--model {shlex.quote(model)}"] * (model != "nano") + [f"--suite {suite}"] * (suite != "shapes")
    options += [f"--limit {limit}"] * (limit is not None) + [f"--seed {seed}"] * (seed != 0)
    made = {
        "title": study.title,
        "question": study.question,
        "caption": finding.answer,
        "command": " ".join(["toprovar study", name, *options]),
        "machine": describe_processor(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "toprovar": __version__,
        "rows": [dict(row) for row in finding.rows],
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / f"{name}.png").write_bytes(picture)
    write_text(output / f"{name}.json", json.dumps(made, indent=1))
    _print(study, finding)
    return made


def _print(study: Study, finding: Finding) -> None:
    table = Table(title=study.title)
    for column in finding.rows[0] if finding.rows else ():
        table.add_column(str(column), justify="left" if column == "plan" else "right")
    for row in finding.rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    results().print(table)
