"""docs/studies: the results that are kept say what the files beside them say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toprovar.extensions import STUDIES

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "studies"
RESULTS = sorted(path.stem for path in FOLDER.glob("*.json"))


def test_every_study_has_its_result() -> None:
    assert sorted(STUDIES.names()) == RESULTS


@pytest.mark.parametrize("name", RESULTS)
def test_the_page_quotes_the_result(name: str) -> None:
    result = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    page = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    for quoted in ("title", "question", "caption", "command", "machine", "date"):
        assert " ".join(result[quoted].split()) in page
    assert f"]({name}.png)" in page
    assert f"]({name}.json)" in page
    assert result["command"].startswith(f"toprovar study {name}")
    assert (FOLDER / f"{name}.png").stat().st_size > 0
