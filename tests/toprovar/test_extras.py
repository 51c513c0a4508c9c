"""Extras are read from the package's metadata and named when a module is missing."""

from __future__ import annotations

import importlib
import sys

import pytest

import toprovar
from toprovar.errors import MissingExtra
from toprovar.extras import naming_extras, require, requirements


def test_requirements_are_those_of_pyproject() -> None:
    table: dict[str | None, set[str]] = {}
    for requirement in requirements():
        table.setdefault(requirement.extra, set()).add(requirement.distribution)
    assert table[None] == {"click", "numpy", "onnxruntime", "pillow", "rich", "safetensors"}
    assert {"torch", "onnx", "onnxscript", "polygraphy"} <= table["compile"]
    assert table["scale"] == {"ray"}
    assert set(table) == {None, "compile", "eval", "tensorrt", "t5", "serve", "scale"}


def test_require(monkeypatch: pytest.MonkeyPatch) -> None:
    assert require("json.decoder", extra="compile").__name__ == "json.decoder"
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match="torch is not installed; expected the extra 'compile'"):
        require("torch", extra="compile")


@pytest.mark.parametrize(("module", "extra"), [("torch", "compile"), ("scipy", "compile"), ("ray", "scale")])
def test_a_missing_module_of_an_extra_is_named(module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra) as caught, naming_extras():
        importlib.import_module(module)
    assert (caught.value.module, caught.value.extra) == (module, extra)


@pytest.mark.parametrize("module", ["no_such_module", "toprovar.no_such_module", "scipy.no_such_module"])
def test_other_missing_modules_are_bugs(module: str) -> None:
    with pytest.raises(ModuleNotFoundError), naming_extras():
        importlib.import_module(module)


@pytest.mark.parametrize("name", ["SparsityPlan", "EngineOptions", "CalibrationStats", "Manifest", "ToProVARError"])
def test_public_names_are_lazy(name: str) -> None:
    assert getattr(toprovar, name).__name__ == name
    assert name in dir(toprovar)


def test_no_other_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        toprovar.nothing  # noqa: B018
