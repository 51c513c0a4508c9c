"""What a study is: a question, and a measurement that answers it in plain words, a table and a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from toprovar.studies.laboratory import Laboratory

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Finding", "Row", "Study"]

Row = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True)
class Finding:
    """What a study found.

    Attributes:
        answer: the answer with its figures, in plain words; says so where the figures do not allow one.
        rows: the measurements, one a line of a table; all with the same columns.
        figure: the picture.
    """

    answer: str
    rows: tuple[Row, ...]
    figure: Figure


class Study(ABC):
    """One question.

    Attributes:
        title: a few words.
        question: what is asked, and why anyone would.
    """

    title: str
    question: str

    @abstractmethod
    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """Measures.

        Args:
            laboratory: the model and everything about it.
            limit: use this many prompts of the suite, spread over it; None for all.
        """
