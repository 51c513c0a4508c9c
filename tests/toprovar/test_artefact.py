"""Artefact files: exact, readable, atomic, and refused as a whole when damaged."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toprovar import jsonfile
from toprovar.artefact import Artefact
from toprovar.errors import ArtefactError
from toprovar.plan import PlanCost, SparsityPlan

KINDS = ("plan", "stats", "manifest")


@pytest.mark.parametrize("kind", KINDS)
def test_loads_back_equal(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    artefact: Artefact = request.getfixturevalue(kind)
    artefact.save(tmp_path / "a.json")
    assert type(artefact).load(tmp_path / "a.json") == artefact
    assert pickle.loads(pickle.dumps(artefact)) == artefact
    assert os.listdir(tmp_path) == ["a.json"]


@settings(max_examples=200, deadline=None)
@given(st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False))
def test_floats_are_exact(value: float) -> None:
    cost = PlanCost(value, value, (value,), (value,))
    assert PlanCost.from_json(cost.to_json()).dense_flops.hex() == value.hex()


def test_numbers_stand_on_one_line_and_scales_on_one_each(plan: SparsityPlan) -> None:
    lines = plan.to_json().splitlines()
    assert '  "schema_version": 2,' in lines
    assert '    {"height": 3, "width": 4, "kept": [12, 6, 0], "unconditional": "full"}' in lines
    many = jsonfile.render({"numbers": list(range(200))})
    assert len(many.splitlines()) == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"schema_version": 2',
            '"schema_version": 1',
            "plan.json: schema_version: expected 2, got 1; it is from another version of ToProVAR: "
            "make it anew with toprovar-compile",
        ),
        (
            "[12, 6, 0]",
            "[12, -5, 0]",
            "plan.json: scales[2].kept[1]: expected an integer from 0 to 12, got -5; "
            "mend the file, or make it anew with toprovar-compile",
        ),
        ('"policy"', '"restoration"', "plan.json: restoration: given twice; expected once"),
        ("0.25", "NaN", "plan.json: not valid: holds NaN; expected finite numbers"),
        ("0.25", "1e999", "plan.json: depth_rule.thresholds[0]: expected a finite number, got inf"),
        ("0.25", "9" * 5000, "plan.json: not valid: an integer is too long"),
        ("0.25", "[" * 200_000, "plan.json: not valid: nested too deeply"),
        ("0.25", "0.25 0.5", "plan.json: not valid JSON at line "),
        ('"identity"', '"zero"', "plan.json: restoration: expected one of "),
        ('"full"', '"skip"', "plan.json: scales[0].unconditional: expected one of 'full', 'reused', 'omitted', got"),
    ],
)
def test_a_bad_edit_is_named(plan: SparsityPlan, tmp_path: Path, old: str, new: str, message: str) -> None:
    text = plan.to_json()
    assert old in text
    (tmp_path / "plan.json").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ArtefactError) as caught:
        SparsityPlan.load(tmp_path / "plan.json")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON at line 1 column 1"),
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        (b"[]", "expected an object, got a list of 0"),
        (b"null", "expected an object, got null"),
        (b"{}", "schema_version: missing"),
    ],
)
def test_another_content_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ArtefactError, match=r"plan.json") as caught:
        SparsityPlan.load(tmp_path / "plan.json")
    assert message in str(caught.value)


def test_missing_oversized_and_foreign_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtefactError, match="no such file"):
        SparsityPlan.load(tmp_path / "none.json")
    with pytest.raises(ArtefactError, match="cannot be read: Is a directory"):
        SparsityPlan.load(tmp_path)
    monkeypatch.setattr(jsonfile, "MAXIMUM_BYTES", 1 << 20)
    (tmp_path / "large.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ArtefactError, match="too large; expected at most 1 MiB"):
        SparsityPlan.load(tmp_path / "large.json")


def test_a_failed_write_keeps_the_old_file(plan: SparsityPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    path.write_text("old")

    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan.save(path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["plan.json"]


def test_a_missing_folder_is_a_clear_error(plan: SparsityPlan, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="cannot be written: No such file or directory"):
        plan.save(tmp_path / "none" / "plan.json")
