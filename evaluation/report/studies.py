"""Studies: comparisons of many plans, made elsewhere and left in the deployment for its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from toprovar import jsonfile
from toprovar.errors import ArtefactError
from toprovar.evaluation.report.section import Missing

__all__ = ["STUDIES", "Study", "read_studies"]

STUDIES = "report/studies"
"""Their folder: NAME.json with a title, a caption and the numbers, NAME.png with the picture."""

Cell = str | int | float | bool | None

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MADE = ("command", "machine", "date")
_WORDS = ("title", "question", "caption", *_MADE)


@dataclass(frozen=True)
class Study:
    """One study.

    Attributes:
        name: Its files' name.
        title: What it compares.
        question: What it asks; may be empty.
        caption: What is seen, and how to read it.
        made: How it came about: the command, the machine and the date, as far as they are known.
        rows: Its numbers.
        png: Its picture; None where it has none.
    """

    name: str
    title: str
    question: str
    caption: str
    made: Mapping[str, str]
    rows: tuple[Mapping[str, Cell], ...]
    png: bytes | None = field(repr=False)


def read_studies(folder: Path) -> tuple[Study | Missing, ...]:
    """Reads a deployment's studies by name; one that cannot be read says why.

    Args:
        folder: The deployment.
    """
    place = folder / STUDIES
    names = sorted({path.stem for path in place.glob("*") if path.suffix in (".json", ".png") and path.is_file()})
    studies: list[Study | Missing] = []
    for name in names:
        try:
            studies.append(_read(place, name))
        except ArtefactError as error:
            studies.append(Missing(f"The study {STUDIES}/{name} is not shown: {error}."))
    return tuple(studies)


def _read(place: Path, name: str) -> Study:
    path, picture = place / f"{name}.json", place / f"{name}.png"
    png = _read_picture(picture) if picture.exists() else None
    if not path.exists():
        return Study(name, name, "", f"{picture.name} lies alone: {path.name} would say what it shows.", {}, (), png)
    try:
        value = jsonfile.parse(jsonfile.read_text(path))
    except ArtefactError as error:
        raise ArtefactError(error.problem, error.hint, file=path.name) from None
    if not isinstance(value, dict):
        raise ArtefactError("expected an object", file=path.name)
    words = {key: value.get(key, "") for key in _WORDS}
    for key, word in words.items():
        if not isinstance(word, str):
            raise ArtefactError(f"expected a text, got {word!r}", field=key, file=path.name)
    rows = value.get("rows", [])
    if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
        raise ArtefactError("expected a list of objects that hold numbers and texts", field="rows", file=path.name)
    made = {key: words[key] for key in _MADE if words[key]}
    return Study(name, words["title"] or name, words["question"], words["caption"], made, tuple(rows), png)


def _is_row(row: object) -> bool:
    return isinstance(row, dict) and all(isinstance(cell, Cell) for cell in row.values())


def _read_picture(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtefactError(f"cannot be read: {error.strerror}", file=path.name) from None
    if not data.startswith(_SIGNATURE):
        raise ArtefactError("is no PNG", file=path.name)
    return data
