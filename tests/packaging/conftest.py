"""The wheel, built once, and an environment that has only what the wheel itself requires."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest

from ..tiny_nano import compiled, weights

__all__ = ["bare_python", "compiled", "pyproject", "weights", "wheel"]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def wheel(pyproject: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would put what an earlier build left in the tree into the wheel."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in set(pyproject["tool"]["setuptools"]["package-dir"].values()):
        if (ROOT / folder).is_dir():
            shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(target), str(source))
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and its base dependencies.

    The dependencies are links to those installed here, so that nothing is downloaded.
    """
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    _pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    report = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.run([python, "-c", report], capture_output=True, text=True, check=True).stdout.strip())
    (metadata,) = site.glob("toprovar-*.dist-info")
    for distribution in _closure(importlib.metadata.Distribution.at(metadata)):
        for file in distribution.files or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(Path(str(distribution.locate_file(top))))
    return python


def _closure(root: importlib.metadata.Distribution) -> list[importlib.metadata.Distribution]:
    """All that a distribution requires without extras, itself excepted."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting = [root]
    while waiting:
        for requirement in waiting.pop().requires or ():
            specifier, _, marker = requirement.partition(";")
            name = re.match(r"[\w.-]+", specifier)
            if name is None or "extra" in marker or name[0] in found:
                continue
            try:
                distribution = importlib.metadata.distribution(name[0])
            except importlib.metadata.PackageNotFoundError:
                # For another platform or Python version; what is truly missing fails on import.
                continue
            found[name[0]] = distribution
            waiting.append(distribution)
    return list(found.values())


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.fail(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
