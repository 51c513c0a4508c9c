"""Every study runs on the tiny nano and gives an answer, a table and a picture."""

from __future__ import annotations

import json

import pytest

from toprovar.evaluation.report.style import png, quiet
from toprovar.extensions import STUDIES
from toprovar.studies import ablation, damage, normalisation, pareto
from toprovar.studies.base import Study
from toprovar.studies.laboratory import Laboratory


@pytest.fixture(autouse=True)
def _little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pareto, "_TARGETS", (0.55,))
    monkeypatch.setattr(ablation, "_VARIANTS", dict(list(ablation._VARIANTS.items())[:3]))
    monkeypatch.setattr(damage, "_LATE", 2)
    monkeypatch.setattr(normalisation, "_LATE", 2)


@pytest.mark.parametrize("name", STUDIES.names())
def test_it_answers(name: str, laboratory: Laboratory) -> None:
    study = STUDIES.load(name)
    assert isinstance(study, Study)
    with quiet():
        finding = study.run(laboratory, 2)
        picture = png(finding.figure)
    assert finding.answer.endswith(".")
    assert "nan" not in finding.answer.lower().split()
    assert finding.rows
    assert {tuple(row) for row in finding.rows} == {tuple(finding.rows[0])}
    values = [value for row in finding.rows for value in row.values()]
    assert all(value is None or type(value) in (str, int, float, bool) for value in values)
    json.dumps([dict(row) for row in finding.rows], allow_nan=False)
    assert picture.startswith(b"\x89PNG")


def test_a_measurement_can_be_repeated(laboratory: Laboratory) -> None:
    with quiet():
        first, second = (damage.STUDY.run(laboratory, 1) for _ in range(2))
    assert first.rows == second.rows
    assert first.answer == second.answer
