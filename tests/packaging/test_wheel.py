"""The wheel holds every module and every data file, and nothing else."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import toprovar

ROOT = Path(__file__).resolve().parents[2]
DATA = {".json", ".j2", ".safetensors", ".txt", ".typed"}
NOT_PACKAGED = {"benchmarks", "build", "docs", "tests"}


def test_every_folder_with_python_files_is_listed(pyproject: dict[str, Any]) -> None:
    settings = pyproject["tool"]["setuptools"]
    listed = settings["packages"]
    assert listed == sorted(set(listed))
    assert set(_packages(settings["package-dir"]).values()) == set(listed)


def test_every_package_is_mapped_and_explicit(pyproject: dict[str, Any]) -> None:
    for folder in _packages(pyproject["tool"]["setuptools"]["package-dir"]):
        assert (folder / "__init__.py").is_file(), f"{folder} has Python files but no __init__.py"


def test_the_wheel_holds_every_file_of_the_tree(pyproject: dict[str, Any], wheel: Path) -> None:
    expected = {
        f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"
        for folder, package in _packages(pyproject["tool"]["setuptools"]["package-dir"]).items()
        for path in _files(folder)
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == expected
    assert {"toprovar/cli.py", "toprovar/models/nano/__init__.py", "toprovar/py.typed"} <= names


def test_the_wheel_states_version_scripts_and_licence(wheel: Path) -> None:
    assert wheel.name == f"toprovar-{toprovar.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        folder = f"toprovar-{toprovar.__version__}.dist-info"
        scripts = archive.read(f"{folder}/entry_points.txt").decode().split("\n")
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert "toprovar = toprovar.cli:main" in scripts
    assert "toprovar-compile = toprovar.cli:compile_main" in scripts


def test_the_version_is_stated_once(pyproject: dict[str, Any]) -> None:
    assert "version" not in pyproject["project"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "toprovar.__version__"}


def test_folders_are_imported_through_the_package_alone(pyproject: dict[str, Any]) -> None:
    importlib.import_module("toprovar.models")
    # A `models` beside `toprovar.models` would be a second copy of each class.
    folders = set(pyproject["tool"]["setuptools"]["package-dir"].values()) - {"toprovar"}
    assert not folders & set(sys.modules)


def _packages(mapping: dict[str, str]) -> dict[Path, str]:
    """Every folder of the tree that holds Python files, with its package's name."""
    named = {folder: package for package, folder in mapping.items()}
    found = {}
    for top in sorted(ROOT.iterdir()):
        if top.is_dir() and not top.name.startswith(".") and top.name not in NOT_PACKAGED:
            for file in top.rglob("*.py"):
                parts = file.parent.relative_to(top).parts
                found[file.parent] = ".".join((named.get(top.name, f"(unmapped) {top.name}"), *parts))
    return found


def _files(folder: Path) -> Iterator[Path]:
    yield from folder.glob("*.py")
    for path in folder.rglob("*"):
        # A data folder belongs to the nearest package above it.
        below = path.relative_to(folder).parents
        owned = not any((folder / parent / "__init__.py").is_file() for parent in below if str(parent) != ".")
        if path.is_file() and path.suffix in DATA and owned and "__pycache__" not in path.parts:
            yield path
