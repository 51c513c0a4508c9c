"""The manifest: paths stay inside, sampling lists agree."""

from __future__ import annotations

import dataclasses

import pytest

from toprovar.errors import ArtefactError
from toprovar.manifest import Manifest, SamplingDefaults

HASH = "a" * 64


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "..",
        "../plan.json",
        "graphs/../../plan.json",
        "/etc/passwd",
        "graphs//step.onnx",
        "./plan.json",
        "graphs/",
        "C:/plan.json",
        "graphs\\step.onnx",
        "a\0b",
        "manifest.json",
    ],
)
def test_paths_out_of_the_folder_are_refused(manifest: Manifest, path: str) -> None:
    with pytest.raises(ArtefactError, match="files: expected relative paths inside the folder"):
        dataclasses.replace(manifest, files={path: HASH})


@pytest.mark.parametrize("path", ["plan.json", "graphs/step.onnx", "graphs/a..b", "a b/ü"])
def test_paths_inside_are_kept(manifest: Manifest, path: str) -> None:
    listed = dataclasses.replace(manifest, files={path: HASH})
    assert Manifest.from_json(listed.to_json()).files == {path: HASH}


def test_a_file_needs_a_hash(manifest: Manifest) -> None:
    with pytest.raises(ArtefactError, match=r"files\.plan\.json: expected 64 hexadecimal digits"):
        dataclasses.replace(manifest, files={"plan.json": "A" * 64})


def test_guidance_and_temperature_cover_the_same_scales() -> None:
    with pytest.raises(ArtefactError, match="temperature: expected one entry for each scale"):
        SamplingDefaults((3.0, 3.0), (1.0,), 0, 0.0)
