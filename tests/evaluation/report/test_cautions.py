"""What a report warns of, and what it reads to do so."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from toprovar.evaluation.report.cautions import cautions
from toprovar.evaluation.report.examples import Examples, Timing
from toprovar.evaluation.report.material import Material
from toprovar.evaluation.report.quality import Quality, read_quality
from toprovar.evaluation.report.section import Missing
from toprovar.evaluation.report.sections import studies as studies_section
from toprovar.evaluation.report.studies import Study, read_studies
from toprovar.plan import DepthRule
from toprovar.stats import CalibrationStats, PromptStats

MARK = {"score": 0.8, "categories": {"counting": 0.7}, "seconds": 0.5, "flops": 1.0, "psnr": None, "later": 1}
MARKS: dict[str, Any] = {"suite": "shapes", "prompts": 20, "dense": MARK, "sparse": MARK | {"flops": 0.6, "psnr": 30.0}}
PNG = b"\x89PNG\r\n\x1a\nrest"


def write(folder: Path, value: object) -> Path:
    (folder / "report" / "studies").mkdir(parents=True, exist_ok=True)
    (folder / "report" / "eval.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def with_ratios(stats: CalibrationStats, ratios: Sequence[float]) -> tuple[PromptStats, ...]:
    return tuple(dataclasses.replace(stats.prompts[0], low_entropy_ratio=(ratio,) * 3) for ratio in ratios)


@pytest.fixture
def calm(material: Material) -> Material:
    """Nothing to warn of."""
    stats, rule = material.stats, DepthRule("low_entropy_ratio", 0, -0.5, (0.5,), (1, 2))
    assert isinstance(stats, CalibrationStats)
    assert isinstance(material.examples, Examples)
    prompts = with_ratios(stats, (0.1, 0.9))
    dense = Timing(2.0, (0.1, 0.2, 0.3), 0.0)
    return dataclasses.replace(
        material,
        plan=dataclasses.replace(material.plan, depth_rule=rule),
        stats=dataclasses.replace(stats, prompts=prompts),
        quality=Quality.from_json(json.dumps(MARKS).replace(', "later": 1', "")),
        examples=dataclasses.replace(material.examples, dense=dense, sparse=dataclasses.replace(dense, total=1.0)),
        studies=(),
    )


def test_nothing_to_warn_of(calm: Material) -> None:
    assert cautions(calm) == ()


def test_quality_that_was_not_measured(calm: Material, tmp_path: Path) -> None:
    (line,) = cautions(dataclasses.replace(calm, quality=read_quality(tmp_path)))
    assert "Quality was not measured" in line
    assert f"toprovar eval {tmp_path} -o {tmp_path / 'report' / 'eval.json'}" in line
    quality = calm.quality
    assert isinstance(quality, Quality)
    (line,) = cautions(dataclasses.replace(calm, quality=dataclasses.replace(quality, sparse=None)))
    assert "dense model alone" in line


def test_quality_that_was_lost(calm: Material) -> None:
    quality = calm.quality
    assert isinstance(quality, Quality)
    worse = dataclasses.replace(quality, sparse=dataclasses.replace(quality.dense, score=0.75))
    (line,) = cautions(dataclasses.replace(calm, quality=worse))
    assert "lowers the score of shapes by 0.050, from 0.800 to 0.750" in line


def test_a_plan_that_is_not_faster(calm: Material) -> None:
    examples = calm.examples
    assert isinstance(examples, Examples)
    slow = dataclasses.replace(examples, sparse=dataclasses.replace(examples.sparse, total=2.5))
    (line,) = cautions(dataclasses.replace(calm, examples=slow))
    assert "not faster than dense on this machine: 2.5 s against 2 s" in line


@pytest.mark.parametrize(("low", "warned"), [(9, False), (10, True)])
def test_a_rule_that_sends_almost_all_prompts_to_one_depth(low: int, warned: bool, calm: Material) -> None:
    stats = calm.stats
    assert isinstance(stats, CalibrationStats)
    prompts = with_ratios(stats, [0.1] * low + [0.9] * (10 - low))
    lines = cautions(dataclasses.replace(calm, stats=dataclasses.replace(stats, prompts=prompts)))
    assert [("100%" in line and "to depth 1" in line) for line in lines] == [True] * warned


@pytest.mark.parametrize(("scores", "warned"), [((0.8, 0.81), False), ((0.8, 0.83), True), ((), False)])
def test_a_score_that_moves_with_tau(scores: tuple[float, ...], warned: bool, calm: Material) -> None:
    rows = tuple({"tau": index, "score": score} for index, score in enumerate(scores))
    study = Study("tau", "Sweep", "", "", {}, rows, None)
    other = dataclasses.replace(study, name="pareto", rows=({"flops": 1, "score": 0.1}, {"flops": 2, "score": 0.9}))
    lines = cautions(dataclasses.replace(calm, studies=(study, other, Missing("x"))))
    assert ["moves by 0.030" in line and "studies/tau.json" in line for line in lines] == [True] * warned


def test_marks_are_read_back(tmp_path: Path) -> None:
    quality = read_quality(write(tmp_path, MARKS))
    assert isinstance(quality, Quality)
    assert quality.sparse is not None
    assert (quality.sparse.psnr, quality.dense.categories["counting"]) == (30.0, 0.7)
    alone = read_quality(write(tmp_path, {name: value for name, value in MARKS.items() if name != "sparse"}))
    assert isinstance(alone, Quality)
    assert alone.sparse is None


@pytest.mark.parametrize(
    "value", ["{", "[]", {"suite": "shapes"}, MARKS | {"dense": 3}, MARKS | {"dense": MARK | {"score": 2}}]
)
def test_marks_that_cannot_be_read(value: object, tmp_path: Path) -> None:
    quality = read_quality(write(tmp_path, value))
    assert isinstance(quality, Missing)
    assert "cannot be read" in quality.line


def test_studies(tmp_path: Path, material: Material) -> None:
    place = write(tmp_path, MARKS) / "report" / "studies"
    whole = {
        "title": "Sweep of tau",
        "question": "Robust?",
        "caption": "Flat.",
        "command": "toprovar bench",
        "machine": "a",
        "date": "b",
    }
    (place / "tau.json").write_text(json.dumps(whole | {"rows": [{"tau": 1, "score": 0.123456789}, {"tau": None}]}))
    (place / "tau.png").write_bytes(PNG)
    (place / "alone.png").write_bytes(PNG)
    (place / "table.json").write_text(json.dumps({"title": "<Table>", "rows": [{"a": True, "b": "x"}]}))
    for name, text in {"not_json": "{", "list": "[]", "title": '{"title": 3}', "rows": '{"rows": [[1]]}'}.items():
        (place / f"{name}.json").write_text(text)
    (place / "no_png.png").write_bytes(b"GIF89a")
    (place / "notes.txt").write_text("not a study")
    read = read_studies(tmp_path)
    studies = [one for one in read if isinstance(one, Study)]
    lines = [one.line for one in read if isinstance(one, Missing)]
    assert [one.name for one in studies] == ["alone", "table", "tau"]
    assert len(lines) == 5
    assert any("no_png.png: is no PNG" in line for line in lines)
    section = studies_section.make(dataclasses.replace(material, studies=read))
    assert [picture.name for picture in section.pictures] == ["", ""]
    assert section.pictures[1].caption == "Sweep of tau. Robust? Flat."
    assert section.pictures[1].source == "command toprovar bench; machine a; date b"
    table, tau = section.tables
    assert (table.folded, table.header, table.rows) == (False, ("a", "b"), (("True", "x"),))
    assert (tau.folded, tau.rows) == (True, (("1", "0.12346"), ("", "")))
    assert section.notes == tuple(lines)
