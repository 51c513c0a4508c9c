"""Any damage to an artefact's file is either harmless and kept, or refused with an ArtefactError."""

from __future__ import annotations

import copy
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toprovar.artefact import Artefact
from toprovar.conform import to_plain
from toprovar.errors import ArtefactError

KINDS = ("plan", "stats", "manifest")

_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 20),
    st.sampled_from([-1, 0, 1, 2**63, 10**400, 1e308, -0.0, 5e-324, math.nan, math.inf]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["identity", "cached", "../x", "/etc/passwd", "\ud800", "\x00", "nan"]),
    st.just([]),
    st.just({}),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2),
)


@pytest.fixture(scope="session")
def artefacts(request: pytest.FixtureRequest) -> dict[str, Artefact]:
    return {kind: request.getfixturevalue(kind) for kind in KINDS}


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_changed_values(kind: str, data: st.DataObject, artefacts: dict[str, Artefact], scratch: Path) -> None:
    tree = copy.deepcopy(to_plain(artefacts[kind]))
    for _ in range(data.draw(st.integers(1, 2), label="changes")):
        _change(tree, data)
    _check(type(artefacts[kind]), json.dumps(tree).encode(), scratch)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_changed_bytes(kind: str, data: st.DataObject, artefacts: dict[str, Artefact], scratch: Path) -> None:
    content = bytearray(artefacts[kind].to_json().encode())
    start = data.draw(st.integers(0, len(content)), label="start")
    removed = data.draw(st.sampled_from([0, 1, 5, len(content)]), label="removed")
    inserted = data.draw(
        st.binary(max_size=3) | st.sampled_from([b'"', b"}", b",", b"-", b"e999", b"9" * 5000, b"[" * 100_000]),
        label="inserted",
    )
    content[start : start + removed] = inserted
    _check(type(artefacts[kind]), bytes(content), scratch)


def _change(node: object, data: st.DataObject) -> None:
    """Walks down to a random place of a JSON tree and changes it."""
    while isinstance(node, dict | list) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys), label="key")
        child = node[key]
        if isinstance(child, dict | list) and child and data.draw(st.integers(0, 4), label="deeper"):
            node = child
            continue
        action = data.draw(st.sampled_from(["set", "set", "delete", "add"]), label="action")
        if action == "set":
            node[key] = data.draw(_values, label="value")
        elif action == "delete":
            del node[key]
        elif isinstance(node, dict):
            node[data.draw(st.text(max_size=4), label="name")] = data.draw(_values, label="value")
        else:
            node.insert(key, copy.deepcopy(child))
        return


def _check(cls: type[Artefact], content: bytes, scratch: Path) -> None:
    path = scratch / f"{os.getpid()}.json"
    path.write_bytes(content)
    try:
        loaded = cls.load(path)
    except ArtefactError as error:
        assert error.file.endswith(".json")
        assert "\n" not in error.one_line()
        return
    assert _same(to_plain(loaded), json.loads(content))
    assert cls.from_json(loaded.to_json()) == loaded


def _same(loaded: object, written: object) -> bool:
    """Equality to which true is not 1, while 1 is 1.0."""
    if isinstance(loaded, dict) and isinstance(written, dict):
        return loaded.keys() == written.keys() and all(_same(loaded[key], written[key]) for key in loaded)
    if isinstance(loaded, list) and isinstance(written, list):
        return len(loaded) == len(written) and all(map(_same, loaded, written))
    return isinstance(loaded, bool) == isinstance(written, bool) and loaded == written
