"""Extensions are found by file name, imported when used, and listed when unknown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from toprovar.errors import MissingExtra, ToProVARError, UsageError
from toprovar.registry import Registry

PACKAGE = "extensions_for_the_registry_test"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "square.py").write_text("class THING:\n    sides = 4\n")
    (folder / "circle.py").write_text("def THING():\n    return 0\n")
    (folder / "helper.py").write_text("from .square import THING\nprint(THING)\n")
    (folder / "_hidden.py").write_text("THING = 1\n")
    (folder / "solid").mkdir()
    (folder / "solid" / "__init__.py").write_text("THING: int = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.fixture
def registry() -> Registry:
    return Registry("thing", PACKAGE, "THING")


def test_names_are_files_that_define_the_symbol(folder: Path, registry: Registry) -> None:
    assert registry.names() == ("circle", "solid", "square")
    assert f"{PACKAGE}.square" not in sys.modules


def test_load_imports_that_file_alone(folder: Path, registry: Registry) -> None:
    assert registry.load("square").sides == 4
    assert registry.load("solid") == 3
    assert f"{PACKAGE}.circle" not in sys.modules


def test_a_hyphen_stands_for_an_underscore(folder: Path, registry: Registry) -> None:
    (folder / "two_words.py").write_text("THING = 2\n")
    assert registry.load("two-words") == registry.load("two_words") == 2
    assert registry.names() == ("circle", "solid", "square", "two_words")


def test_an_unknown_name_lists_the_choices(folder: Path, registry: Registry) -> None:
    with pytest.raises(UsageError) as caught:
        registry.load("sqare")
    assert str(caught.value) == ("unknown thing 'sqare'; expected one of circle, solid, square; did you mean 'square'?")


@pytest.mark.parametrize("name", ["helper", "_hidden", "__init__", "../square", "square.THING", ""])
def test_only_names_can_be_loaded(folder: Path, registry: Registry, name: str) -> None:
    with pytest.raises(UsageError, match="unknown thing"):
        registry.load(name)


def test_a_file_and_a_folder_of_one_name_are_refused(folder: Path, registry: Registry) -> None:
    (folder / "solid.py").write_text("THING = 4\n")
    with pytest.raises(ToProVARError, match=r"thing 'solid' is defined twice, in .*__init__\.py and .*solid\.py"):
        registry.names()


def test_a_missing_package_of_an_extra_is_named(
    folder: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    (folder / "cube.py").write_text("import ray\nTHING = 1\n")
    with pytest.raises(MissingExtra) as caught:
        registry.load("cube")
    assert caught.value.extra == "scale"


@pytest.mark.parametrize("line", ["import no_such_package", f"import {PACKAGE}.no_such_module", "1 / 0"])
def test_a_bug_in_a_file_passes_through(folder: Path, registry: Registry, line: str) -> None:
    (folder / "cube.py").write_text(f"{line}\nTHING = 1\n")
    with pytest.raises((ModuleNotFoundError, ZeroDivisionError)):
        registry.load("cube")


def test_a_missing_package_has_no_names() -> None:
    registry = Registry("thing", "no_such_package.things", "THING")
    assert registry.names() == ()
    with pytest.raises(UsageError, match="expected one of none: no file defines one"):
        registry.load("x")
