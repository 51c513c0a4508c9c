"""What is trusted of a journal, and what is not."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from toprovar.calibration import journal as module
from toprovar.calibration.journal import Journal, cache_folder, fingerprint
from toprovar.calibration.recording import Observation, Recording
from toprovar.manifest import SamplingDefaults

from .synthetic import GRIDS, MODEL, keep_quiet, record

KEY = "a" * 64
NAME = "recording-000003.safetensors"


@functools.cache
def recorded(seed: int) -> Recording:
    """Always the same, times and all."""
    return record(seed)


def same(one: Recording, other: Recording) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Recording)]
    return all(np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype for a, b in pairs)


def opened(folder: Path, key: str = KEY) -> Journal:
    return Journal(folder, key, keep_quiet)


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    recording = recorded(1)
    opened(tmp_path).store(recording, 3)
    assert os.listdir(tmp_path / KEY) == [NAME]
    back = opened(tmp_path).load(Recording, 3)
    assert back is not None
    assert same(back, recording)
    assert isinstance(back.entropy_seconds, float)
    opened(tmp_path).store(Observation(np.array([0.5, 0.25]), np.array([0.1, 0.3]), 2.5), 3, "basis")
    seen = opened(tmp_path).load(Observation, 3, "basis")
    assert seen is not None
    assert (seen.low_entropy_ratio.tolist(), seen.seconds) == ([0.5, 0.25], 2.5)


def test_a_recording_may_be_a_view(tmp_path: Path) -> None:
    recording = recorded(1)
    turned = dataclasses.replace(recording, histogram=np.asfortranarray(recording.histogram))
    opened(tmp_path).store(turned, 3)
    back = opened(tmp_path).load(Recording, 3)
    assert back is not None
    assert same(back, recording)


def test_what_is_not_there(tmp_path: Path) -> None:
    opened(tmp_path).store(recorded(1), 3)
    assert opened(tmp_path).load(Recording, 2) is None
    assert opened(tmp_path).load(Observation, 3) is None
    assert opened(tmp_path, "b" * 64).load(Recording, 3) is None
    assert opened(tmp_path / "none").load(Recording, 3) is None
    assert opened(tmp_path).load(Recording, 3) is not None


@pytest.mark.parametrize("place", ["another calibration", "another prompt", "another kind", "another basis"])
def test_a_foreign_entry_is_removed(place: str, tmp_path: Path) -> None:
    opened(tmp_path).store(recorded(1), 3, "basis")
    source = tmp_path / KEY / NAME
    key = "b" * 64 if place == "another calibration" else KEY
    name = {"another prompt": "recording-000004.safetensors", "another kind": "observation-000003.safetensors"}
    target = tmp_path / key / name.get(place, NAME)
    target.parent.mkdir(exist_ok=True)
    if target != source:
        shutil.copy(source, target)
    kind = Observation if place == "another kind" else Recording
    basis = "other" if place == "another basis" else "basis"
    assert opened(tmp_path, key).load(kind, 4 if place == "another prompt" else 3, basis) is None
    assert not target.exists()


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("entry")
    opened(folder).store(recorded(1), 3)
    return (folder / KEY / NAME).read_bytes()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_never_read(data: st.DataObject, entry: bytes, tmp_path: Path) -> None:
    content = bytearray(entry)
    start = data.draw(st.integers(0, len(content)) | st.integers(0, 700), label="start")
    removed = data.draw(st.sampled_from([0, 1, 8, len(content)]), label="removed")
    inserted = data.draw(st.binary(max_size=9) | st.sampled_from([b"F16", b"BF16", b"[[[[", b"\xff" * 8]), label="new")
    content[start : start + removed] = inserted
    (tmp_path / KEY).mkdir(exist_ok=True)
    (tmp_path / KEY / NAME).write_bytes(content)
    loaded = opened(tmp_path).load(Recording, 3)
    if loaded is None:
        assert not (tmp_path / KEY / NAME).exists()
    else:
        # damage to no tensor and no name, such as a blank in the header
        assert same(loaded, recorded(1))


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Recording)])
def test_a_changed_value_is_never_read(name: str, entry: bytes, tmp_path: Path) -> None:
    path = tmp_path / KEY / NAME
    path.parent.mkdir()
    path.write_bytes(entry)
    arrays = {key: value.copy() for key, value in load_file(path).items()}
    arrays[name] = np.nextafter(arrays[name], 2) if arrays[name].dtype == np.float64 else arrays[name] + 1
    save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, path)
    assert opened(tmp_path).load(Recording, 3) is None


def test_a_class_that_has_changed_since(tmp_path: Path) -> None:
    def kind(*names: str) -> type:
        return dataclasses.make_dataclass("Entry", [(name, float) for name in names], frozen=True)

    opened(tmp_path).store(kind("a", "b")(1.0, 2.0), 0)
    assert opened(tmp_path).load(kind("a", "c"), 0) is None


def test_something_large_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).store(recorded(1), 3)
    monkeypatch.setattr(module, "_BYTES_AT_MOST", 1000)
    assert opened(tmp_path).load(Recording, 3) is None


def test_a_folder_in_an_entrys_place(tmp_path: Path) -> None:
    (tmp_path / KEY / NAME).mkdir(parents=True)
    remarks: list[str] = []
    journal = Journal(tmp_path, KEY, remarks.append)
    assert journal.load(Recording, 3) is None
    journal.store(recorded(1), 3)
    assert len(remarks) == 1


def test_only_its_own_folder_is_cleared(tmp_path: Path) -> None:
    opened(tmp_path).store(recorded(1), 3)
    opened(tmp_path, "b" * 64).store(recorded(1), 3)
    opened(tmp_path).clear()
    opened(tmp_path).clear()
    assert os.listdir(tmp_path) == ["b" * 64]


def test_a_folder_that_was_cleared_meanwhile_is_made_again(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    journal.store(recorded(1), 2)
    opened(tmp_path).clear()
    journal.store(recorded(1), 3)
    assert os.listdir(tmp_path / KEY) == [NAME]


def test_an_interruption_while_writing_leaves_the_old_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(tmp_path).store(recorded(1), 3)

    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path).store(recorded(2), 3)
    assert os.listdir(tmp_path / KEY) == [NAME]
    back = opened(tmp_path).load(Recording, 3)
    assert back is not None
    assert same(back, recorded(1))


def test_a_full_disk_is_told_once_and_what_was_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remarks: list[str] = []
    journal = Journal(tmp_path, KEY, remarks.append)
    journal.store(recorded(1), 0)

    def full(path: Path, content: bytes) -> None:
        path.open("wb").close()
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    journal.store(recorded(2), 1)
    journal.store(recorded(3), 2)
    assert len(remarks) == 1
    assert "\n" not in remarks[0]
    assert str(tmp_path / KEY) in remarks[0]
    assert "No space left on device" in remarks[0]
    assert os.listdir(tmp_path / KEY) == ["recording-000000.safetensors"]
    assert journal.load(Recording, 0) is not None


def test_no_folder_at_all() -> None:
    journal = Journal(None, KEY, keep_quiet)
    journal.store(recorded(1), 0)
    assert journal.load(Recording, 0) is None
    journal.clear()


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "toprovar" / "calibration"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / "home" / ".cache" / "toprovar" / "calibration"

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_folder() is None


SAMPLING = SamplingDefaults((3.0,) * 3, (1.0,) * 3, 900, 0.97)


@dataclass(frozen=True)
class Facts:
    model: object = MODEL
    sampling: object = SAMPLING
    schedule: object = GRIDS
    prompts: object = ("a", "b")
    seed: int = 0
    others: object = dataclasses.field(default_factory=lambda: {"torch": "2"})

    def digest(self) -> str:
        return fingerprint(*(getattr(self, field.name) for field in dataclasses.fields(self)))


def test_a_fingerprint_is_of_all_that_the_result_depends_on(monkeypatch: pytest.MonkeyPatch) -> None:
    facts, replace = Facts(), dataclasses.replace
    different = [
        facts,
        replace(facts, model=replace(MODEL, sha256="1" * 64)),
        replace(facts, model=replace(MODEL, guidance_layers=(1,))),
        replace(facts, sampling=replace(SAMPLING, guidance=(2.0,) * 3)),
        replace(facts, schedule=((1, 1), (2, 2), (5, 3))),
        replace(facts, prompts=("b", "a")),
        replace(facts, prompts=("a\nb",)),
        replace(facts, seed=1),
        replace(facts, others={"torch": "3"}),
    ]
    digests = [one.digest() for one in different]
    monkeypatch.setattr(module, "__version__", "9.9")
    digests.append(facts.digest())
    monkeypatch.setattr(module, "_FORMAT", 99)
    digests.append(facts.digest())
    assert len(set(digests)) == len(digests)
    assert all(len(one) == 64 for one in digests)


def test_where_a_model_was_loaded_from_does_not_count() -> None:
    moved = dataclasses.replace(Facts(), model=dataclasses.replace(MODEL, source="/elsewhere"))
    assert moved.digest() == Facts().digest()
