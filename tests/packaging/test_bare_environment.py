"""With the base dependencies alone, everything imports or names its extra, and the CLI works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from toprovar.extensions import COMMANDS

from ..tiny_nano import Compiled

CHECK_IMPORTS = """
import importlib, json, pkgutil, sys
import toprovar
from toprovar.errors import MissingExtra
from toprovar.extras import naming_extras
extras, broken = {}, {}
for module in pkgutil.walk_packages(toprovar.__path__, "toprovar.", onerror=lambda name: None):
    try:
        with naming_extras():
            importlib.import_module(module.name)
    except MissingExtra as error:
        extras[module.name] = error.extra
    except BaseException as error:
        broken[module.name] = repr(error)
print(json.dumps({"extras": extras, "broken": broken}))
"""


def _run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_it_is_bare(bare_python: Path, tmp_path: Path) -> None:
    for module in ("torch", "onnx", "scipy", "matplotlib", "polygraphy", "transformers", "pytest"):
        assert _run(bare_python, "-c", f"import {module}", folder=tmp_path).returncode == 1, module
    for module in ("numpy", "onnxruntime", "click", "rich", "safetensors", "PIL"):
        result = _run(bare_python, "-c", f"import {module}", folder=tmp_path)
        assert result.returncode == 0, result.stderr


def test_every_module_imports_or_names_its_extra(bare_python: Path, tmp_path: Path) -> None:
    result = _run(bare_python, "-c", CHECK_IMPORTS, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["broken"] == {}
    # What runs a deployment on ONNX Runtime needs no extra.
    base = ("toprovar.commands", "toprovar.runtime.session", "toprovar.runtime.backends.onnxruntime")
    ours = {name for name in report["extras"] if name.count(".") == 1 or name.startswith(base)}
    assert ours == set()


@pytest.mark.parametrize("name", COMMANDS.names())
def test_help(name: str, bare_python: Path, tmp_path: Path) -> None:
    result = _run(bare_python.parent / "toprovar", name, "--help", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"Usage: toprovar {name} ")


def test_doctor_tells_what_is_missing(bare_python: Path, tmp_path: Path) -> None:
    result = _run(bare_python.parent / "toprovar", "doctor", "--json", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    extras = {extra["name"]: extra for extra in json.loads(result.stdout)["extras"]}
    assert "torch" in extras["compile"]["lacking"]
    assert extras["compile"]["remedy"] == 'pip install "toprovar[compile]"'


def test_a_command_that_needs_an_extra_names_it(bare_python: Path, tmp_path: Path) -> None:
    result = _run(bare_python.parent / "toprovar-compile", "nano", "-o", "out", folder=tmp_path)
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "expected the extra 'compile'; pip install \"toprovar[compile]\"" in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_compiled_model_runs(bare_python: Path, compiled: Compiled, tmp_path: Path) -> None:
    """The deployment moves to a machine that has never seen torch."""
    moved = tmp_path / "elsewhere" / "deployment"
    shutil.copytree(compiled.folder, moved)
    picture = tmp_path / "circle.png"
    result = _run(bare_python.parent / "toprovar", "run", moved, "a red circle", "-o", picture, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    with Image.open(picture) as image:
        assert image.size == (32, 32)
        assert image.info["prompt"] == "a red circle"


def test_a_grid_is_drawn(bare_python: Path, compiled: Compiled, tmp_path: Path) -> None:
    command = bare_python.parent / "toprovar"
    grid = tmp_path / "grid.png"
    result = _run(
        command, "run", compiled.folder, "a red circle", "a star", "--grid", "--json", "-o", grid, folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert [pair["prompt"] for pair in summary["pairs"]] == ["a red circle", "a star"]
    assert all(pair["dense_seconds"] > 0 and pair["sparse_seconds"] > 0 for pair in summary["pairs"])
    assert grid.exists()


@pytest.mark.parametrize(
    ("prompt", "said"),
    [("", "empty"), ("ein roter Kreis", "roter"), ("a red circle " * 20, "24"), ("a 红色 circle", "红色")],
)
def test_a_prompt_that_cannot_be_read(
    prompt: str, said: str, bare_python: Path, compiled: Compiled, tmp_path: Path
) -> None:
    picture = tmp_path / "nothing.png"
    result = _run(bare_python.parent / "toprovar", "run", compiled.folder, prompt, "-o", picture, folder=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not picture.exists()
