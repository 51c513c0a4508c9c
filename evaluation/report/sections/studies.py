"""Comparisons with other plans, as they were left in the deployment."""

from __future__ import annotations

from toprovar.evaluation.report.material import Material
from toprovar.evaluation.report.section import Missing, Picture, Section, Table
from toprovar.evaluation.report.studies import STUDIES, Study

__all__ = ["make"]

_EXPLANATION = (
    "Comparisons of many plans: quality against cost, a sweep of the threshold, each dimension of pruning switched "
    "off. Each has its own caption, and tells the command, the machine and the day that its numbers come from."
)
_NONE = f"None yet: `toprovar study NAME -o DIR/{STUDIES}` makes them, and `toprovar report DIR` puts them here."
_MOST_DIGITS = 5


def make(material: Material) -> Section:
    """The section."""
    studies = [study for study in material.studies if isinstance(study, Study)]
    notes = tuple(study.line for study in material.studies if isinstance(study, Missing))
    return Section(
        "studies",
        "Studies",
        _EXPLANATION,
        tuple(_picture(study, study.png) for study in studies if study.png is not None),
        tuple(_table(study) for study in studies if study.rows),
        notes if material.studies else (_NONE,),
    )


def _picture(study: Study, png: bytes) -> Picture:
    made = "; ".join(f"{key} {word}" for key, word in study.made.items())
    return Picture("", png, _words(study), made or f"{STUDIES}/{study.name}")


def _words(study: Study) -> str:
    return " ".join(words for words in (f"{study.title}.", study.question, study.caption) if words)


def _table(study: Study) -> Table:
    """The numbers: on a click where there is a picture."""
    columns = list(dict.fromkeys(key for row in study.rows for key in row))
    rows = tuple(tuple(_cell(row.get(column)) for column in columns) for row in study.rows)
    name = study.title if study.png is not None else _words(study)
    return Table(tuple(columns), rows, f"Numbers: {name}", folded=study.png is not None)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.{_MOST_DIGITS}g}" if isinstance(value, float) else str(value)
