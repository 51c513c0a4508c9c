"""The whole report: one page that needs nothing else, in a deployment that still opens."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from toprovar.deployment import Deployment
from toprovar.errors import ArtefactError
from toprovar.evaluation.report.publish import publish
from toprovar.evaluation.report.write import SECTIONS, write_report
from toprovar.manifest import Manifest
from toprovar.plan import SparsityPlan
from toprovar.runtime.session import Session
from toprovar.stats import CalibrationStats

from ...tiny_nano import Compiled
from .html_page import Page
from .painter import PROMPTS, open_painter, write_deployment

ANCHORS = ["summary", "entropy", "kept", "layers", "depth", "cost", "images", "sensitivity", "precision", "studies"]
FIGURES = ["entropy", "kept_shares", "kept_layers", "layers", "depth", "cost", "images", "sensitivity"]
FEW = ["layers", "depth", "cost", "sensitivity"]


def test_it_is_one_page_with_every_section(deployment: Path) -> None:
    told: list[tuple[str, int, int]] = []
    written = write_report(
        deployment, lambda: open_painter(deployment), prompts=2, progress=lambda *one: told.append(one)
    )
    assert written.page == deployment / "report" / "index.html"
    assert [path.stem for path in written.pictures] == FIGURES
    assert sorted(path.name for path in (deployment / "report" / "figures").iterdir()) == sorted(
        path.name for path in written.pictures
    )
    page = Page(written.page)
    page.check()
    assert [section["id"] for section in page.all("section")] == ANCHORS
    assert len(SECTIONS) == len(ANCHORS)
    assert len(page.all("img")) == len(FIGURES)
    assert [one for one in told if one[0] == "draw"][-1] == ("draw", 12, 12)
    assert told[-1] == ("report", len(SECTIONS), len(SECTIONS))
    for line in written.cautions:
        assert line.replace("`", "") in page.text
    assert Deployment.open(deployment).plan.policy == "toprovar"


def test_what_comes_from_outside_is_escaped(
    tmp_path: Path, plan: SparsityPlan, manifest: Manifest, stats: CalibrationStats
) -> None:
    named = dataclasses.replace(manifest, model=dataclasses.replace(manifest.model, source="<b onload='x'>&\"nano\""))
    folder = write_deployment(tmp_path / "<i>", plan, named, stats)
    page = Page(write_report(folder, lambda: open_painter(folder)).page)
    page.check()
    assert not page.all("b")
    assert not page.all("i")
    for prompt in PROMPTS:
        assert prompt in page.text
        assert any(prompt in (image["alt"] or "") for image in page.all("img"))
    assert "<b onload='x'>&\"nano\"" in page.text


def test_without_images_and_calibration_each_part_has_its_line(
    tmp_path: Path, plan: SparsityPlan, manifest: Manifest
) -> None:
    folder = write_deployment(tmp_path / "nano", plan, manifest)
    written = write_report(folder, None)
    assert [path.stem for path in written.pictures] == ["layers", "cost"]
    page = Page(written.page)
    page.check()
    assert [section["id"] for section in page.all("section")] == ANCHORS
    for line in (
        "there is no report/calibration.json",
        "this report was made without images",
        "there is no report/eval.json",
        f"toprovar eval {folder} -o {folder / 'report' / 'eval.json'}",
        "toprovar study NAME -o DIR/report/studies makes them",
    ):
        assert line in page.text


def test_without_example_prompts(tmp_path: Path, plan: SparsityPlan, manifest: Manifest) -> None:
    folder = write_deployment(tmp_path / "nano", plan, manifest, prompts=())
    page = Page(write_report(folder, lambda: pytest.fail("a session was opened")).page)
    assert "has no example prompts" in page.text


@pytest.mark.parametrize("content", ["{", '{"schema_version": 1}', "[]"])
def test_a_calibration_that_cannot_be_read(
    content: str, tmp_path: Path, plan: SparsityPlan, manifest: Manifest
) -> None:
    folder = write_deployment(tmp_path / "nano", plan, manifest)
    (folder / "report" / "calibration.json").write_text(content)
    assert "Not shown: calibration.json" in Page(write_report(folder, None).page).text


def test_a_new_report_replaces_the_old_one(deployment: Path) -> None:
    write_report(deployment, lambda: open_painter(deployment), prompts=1)
    written = write_report(deployment, None)
    assert sorted(path.stem for path in (deployment / "report" / "figures").iterdir()) == sorted(FEW)
    assert [path.stem for path in written.pictures] == FEW
    assert sorted(os.listdir(deployment / "report")) == ["calibration.json", "figures", "index.html"]


def test_a_manifest_that_lists_the_report_lists_it_no_more(deployment: Path) -> None:
    write_report(deployment, None)
    path = deployment / "manifest.json"
    manifest = json.loads(path.read_text())
    before = dict(manifest["files"])
    manifest["files"] |= {"report/index.html": "0" * 64, "report/figures/cost.png": "0" * 64}
    path.write_text(json.dumps(manifest))
    with pytest.raises(ArtefactError, match="changed since it was compiled"):
        Deployment.open(deployment)
    # The page that is listed is not the page that lies there: nothing is reported of a folder that does not open.
    with pytest.raises(ArtefactError, match="changed since it was compiled"):
        write_report(deployment, None)
    publish(deployment, "<!DOCTYPE html>", {"cost": b"png"})
    assert Deployment.open(deployment).manifest.files == before
    assert (deployment / "report" / "index.html").read_text() == "<!DOCTYPE html>"


@pytest.mark.parametrize("fails_at", [0, 1, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_report_leaves_the_old_one(
    fails_at: int, error: BaseException, deployment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(deployment, "old", {"cost": b"old", "depth": b"old"})
    report = deployment / "report"
    before = {path.relative_to(report): path.read_bytes() for path in report.rglob("*") if path.is_file()}
    moves = 0

    def failing(move: Callable[..., None]) -> Callable[..., None]:
        def moved(source: Path, target: Path) -> None:
            nonlocal moves
            moves += 1
            if moves == fails_at + 1:
                raise error
            move(source, target)

        return moved

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing(os.rename))
        patch.setattr(os, "replace", failing(os.replace))
        with pytest.raises((KeyboardInterrupt, ArtefactError)):
            publish(deployment, "new", {"cost": b"new"})
    after = {path.relative_to(report): path.read_bytes() for path in report.rglob("*") if path.is_file()}
    assert after == before
    assert sorted(os.listdir(report)) == ["calibration.json", "figures", "index.html"]
    Deployment.open(deployment)


def test_a_folder_that_cannot_be_written(deployment: Path) -> None:
    (deployment / "report" / "index.html").mkdir()
    with pytest.raises(ArtefactError, match="report: cannot be written"):
        write_report(deployment, None)
    assert sorted(os.listdir(deployment / "report")) == ["calibration.json", "index.html"]


def test_what_is_no_deployment(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"holds no manifest\.json"):
        write_report(tmp_path, None)
    assert os.listdir(tmp_path) == []


def test_no_torch_is_needed(deployment: Path) -> None:
    code = """
    import sys
    from pathlib import Path
    sys.modules["torch"] = None
    from toprovar.evaluation.report.write import write_report
    print(write_report(Path(sys.argv[1]), None).page)
    """
    result = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code), str(deployment)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(deployment / "report" / "index.html")


def test_a_compiled_model(compiled: Compiled, tmp_path: Path) -> None:
    folder = tmp_path / "nano"
    shutil.copytree(compiled.folder, folder)
    written = write_report(folder, lambda: Session.open(folder), prompts=1)
    page = Page(written.page)
    page.check()
    assert {"entropy", "kept_shares", "layers", "depth", "cost", "images"} <= {path.stem for path in written.pictures}
    assert "ONNX Runtime" in page.text
    with Session.open(folder) as session:
        assert session("a red circle").images[0].image.size == (32, 32)
