"""What a section of the report is made of, before it is HTML."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Missing", "Picture", "Section", "Table"]


@dataclass(frozen=True)
class Missing:
    """What stands in for an optional part.

    Attributes:
        line: What is not there, and what makes it.
    """

    line: str


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        name: Its file's name without the ending; empty where the file lies in the deployment already.
        png: The file.
        caption: What it shows, for the page and for those who do not see it.
        source: Where its numbers come from.
    """

    name: str
    png: bytes = field(repr=False)
    caption: str
    source: str


@dataclass(frozen=True)
class Table:
    """Cells as they are printed, each with its unit or under a heading that has it.

    Attributes:
        header: A heading for each column.
        rows: As many cells a row; the first is a name.
        caption: What it shows.
        words: Whether the other columns hold words, or numbers, which are set flush right.
        folded: Whether it is shown on a click only.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    words: bool = False
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """One section.

    Attributes:
        anchor: Its name in links.
        title: Its heading.
        explanation: Two sentences in plain words: what is seen, and how to read it.
        pictures: Its figures.
        tables: Its tables.
        notes: What is missing, or has to be known, a line each.
    """

    anchor: str
    title: str
    explanation: str
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
