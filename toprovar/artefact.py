"""Artefacts: frozen dataclasses whose fields are checked and whose JSON loads back equal."""

from __future__ import annotations

from dataclasses import Field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from toprovar import jsonfile
from toprovar.conform import Bounds, Pattern, build, conform, field_kinds, shown, to_plain
from toprovar.errors import ArtefactError

__all__ = [
    "Artefact",
    "Count",
    "Fraction",
    "Index",
    "NonNegative",
    "Positive",
    "Sha256",
    "require_length",
]

Count = Annotated[int, Bounds(least=1)]
Index = Annotated[int, Bounds(least=0)]
Fraction = Annotated[float, Bounds(least=0, most=1)]
NonNegative = Annotated[float, Bounds(least=0)]
Positive = Annotated[float, Bounds(over=0)]
Sha256 = Annotated[str, Pattern("[0-9a-f]{64}", "64 hexadecimal digits")]


class Artefact:
    """Base of every record that goes between folders or into a file.

    Subclasses are frozen dataclasses. Each field is checked against its annotation when the
    object is made (see `toprovar.conform`), then `validate` checks how the fields fit together,
    so that an object that exists is valid. What has a file of its own has a field
    `schema_version: Literal[...]`.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __post_init__(self) -> None:
        for name, kind in field_kinds(type(self)).items():
            value = getattr(self, name)
            checked = conform(kind, value, name)
            if checked is not value:
                # The dataclass is frozen.
                object.__setattr__(self, name, checked)
        self.validate()

    def validate(self) -> None:
        """Checks the fields against one another.

        Raises:
            ArtefactError: With the path of the first field that does not fit.
        """

    def to_json(self) -> str:
        """The content of the artefact's file."""
        return jsonfile.render(to_plain(self)) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ArtefactError: With the path of the first field that is unknown, missing or wrong.
        """
        value = jsonfile.parse(text)
        versions = field_kinds(cls).get("schema_version")
        if versions is not None and isinstance(value, dict) and "schema_version" in value:
            # Told before anything else: another version may well have other fields.
            try:
                conform(versions, value["schema_version"], "schema_version")
            except ArtefactError as error:
                hint = "it is from another version of ToProVAR: make it anew with toprovar-compile"
                raise ArtefactError(error.problem, hint, field=error.field) from None
        return build(cls, value)

    def save(self, path: str | Path) -> None:
        """Writes the artefact's file atomically.

        Raises:
            ArtefactError: The file cannot be written; an older one is then untouched.
        """
        jsonfile.write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads an artefact's file.

        Raises:
            ArtefactError: With the file's name, the field's path and a hint.
        """
        path = Path(path)
        text = jsonfile.read_text(path)
        try:
            return cls.from_json(text)
        except ArtefactError as error:
            hint = "mend the file, or make it anew with toprovar-compile"
            raise error.located(path.name, hint) from None


def require_length(values: tuple[object, ...], length: int, of: str, field: str) -> None:
    """Checks that a list has one entry for each of something.

    Args:
        values: The list.
        length: How many there are of `of`.
        of: What each entry stands for, such as `scale`.
        field: The list's path, for the error.

    Raises:
        ArtefactError: The lengths differ.
    """
    if len(values) != length:
        raise ArtefactError(f"expected one entry for each {of} ({length}), got {shown(values)}", field=field)
