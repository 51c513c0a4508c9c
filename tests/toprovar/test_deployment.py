"""Opening a deployment: what is damaged or does not belong is refused by name."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from toprovar.deployment import Deployment
from toprovar.errors import ArtefactError
from toprovar.manifest import Manifest, SamplingDefaults
from toprovar.plan import SparsityPlan


def test_opens_what_was_written(deployment: Path, plan: SparsityPlan, manifest: Manifest) -> None:
    opened = Deployment.open(deployment)
    assert opened.plan == plan
    assert dataclasses.replace(opened.manifest, files={}) == manifest
    assert sorted(opened.manifest.files) == ["graphs/step.onnx", "plan.json"]
    assert opened.path("graphs/step.onnx").read_bytes() == bytes(range(256))


def _change_graph(folder: Path) -> None:
    content = bytearray((folder / "graphs/step.onnx").read_bytes())
    content[100] ^= 1
    (folder / "graphs/step.onnx").write_bytes(content)


def _edit_plan(folder: Path) -> None:
    text = (folder / "plan.json").read_text()
    (folder / "plan.json").write_text(text.replace("[12, 6, 0]", "[12, -6, 0]"))


def _link_out(folder: Path) -> None:
    outside = folder.parent / "outside.onnx"
    os.rename(folder / "graphs/step.onnx", outside)
    os.symlink(outside, folder / "graphs/step.onnx")


def _escape(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace("graphs/step.onnx", "../step.onnx"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: os.unlink(folder / "manifest.json"), "holds no manifest.json"),
        (lambda folder: os.rename(folder, folder.parent / "gone"), "no such folder"),
        (lambda folder: os.unlink(folder / "plan.json"), "plan.json: missing from"),
        (lambda folder: os.unlink(folder / "graphs/step.onnx"), "graphs/step.onnx: missing from"),
        (_change_graph, "graphs/step.onnx: changed since it was compiled"),
        (_edit_plan, "plan.json: scales[2].kept[1]: expected an integer from 0 to 12, got -6"),
        (_link_out, "graphs/step.onnx: leads out of"),
        (_escape, "manifest.json: files: expected relative paths inside the folder, got '../step.onnx'"),
    ],
)
def test_damage_is_named(deployment: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(deployment)
    with pytest.raises(ArtefactError) as caught:
        Deployment.open(deployment)
    assert message in str(caught.value)
    assert "compile" in str(caught.value)


def test_hashes_are_skipped_only_on_demand(deployment: Path) -> None:
    _change_graph(deployment)
    assert Deployment.open(deployment, check_hashes=False).path("graphs/step.onnx").is_file()


def test_a_file_that_is_not_listed_is_refused(deployment: Path) -> None:
    (deployment / "graphs" / "other.onnx").write_bytes(b"")
    with pytest.raises(ArtefactError, match=r"manifest\.json: lists no file 'graphs/other\.onnx'"):
        Deployment.open(deployment).path("graphs/other.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling": SamplingDefaults((3.0,), (1.0,), 0, 0.0)}, "number of scales: expected 1"),
        ({"layers": 4}, "number of layers: expected 4"),
        ({"heads": 4}, "number of heads: expected 4"),
        ({"sha256": "b" * 64}, "model_sha256: expected bbbb"),
    ],
)
def test_plan_and_manifest_must_agree(deployment: Path, change: dict[str, object], message: str) -> None:
    manifest = Manifest.load(deployment / "manifest.json")
    if "sampling" not in change:
        change = {"model": dataclasses.replace(manifest.model, **change)}
    dataclasses.replace(manifest, **change).save(deployment / "manifest.json")
    with pytest.raises(ArtefactError, match=r"plan.json") as caught:
        Deployment.open(deployment)
    assert message in str(caught.value)


def test_the_plan_must_be_listed(deployment: Path) -> None:
    manifest = Manifest.load(deployment / "manifest.json")
    files = {"graphs/step.onnx": manifest.files["graphs/step.onnx"]}
    dataclasses.replace(manifest, files=files).save(deployment / "manifest.json")
    with pytest.raises(ArtefactError, match=r"manifest\.json: does not list plan\.json"):
        Deployment.open(deployment)
