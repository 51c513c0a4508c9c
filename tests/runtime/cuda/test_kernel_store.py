"""Kernels in a deployment, compiled for a GPU that need not be here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton")

import triton

from toprovar.kernels import KERNELS, Kernels
from toprovar.plugins.fae.aot import compile_kernel, portable_configs
from toprovar.runtime.cuda import kernel_store
from toprovar.runtime.cuda.kernel_store import offer_kernels, recorded_kernels, save_kernels

HERE = Kernels("NVIDIA H200", "9.0", "2.11.0", "3.6.0", "13.0")


@pytest.fixture(autouse=True)
def _apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton's settings and what was offered are as before afterwards; the machine has a GPU."""
    monkeypatch.setattr(kernel_store, "this_machine", lambda: HERE)
    monkeypatch.setattr(kernel_store, "_offered", [])
    with triton.knobs.cache.scope(), triton.knobs.compilation.scope():
        triton.knobs.cache.manager_class = None
        yield


def compile_in(cache: Path) -> list[bool]:
    """Compiles one kernel with Triton's cache in a folder; whether it was found compiled."""
    hits: list[bool] = []
    triton.knobs.cache.dir = str(cache)
    triton.knobs.compilation.listener = lambda *, cache_hit, **_: hits.append(cache_hit)
    kept = portable_configs(32, "float32")[0]
    try:
        compile_kernel(32, "float32", (9, 0), kept)
    except KeyError as error:  # a found kernel brings no PTX, which only this helper asks for
        assert "ptx" in str(error)
    return hits


def deployment_of(folder: Path) -> Any:
    files = {path.relative_to(folder).as_posix(): "" for path in folder.rglob("*") if path.is_file()}
    return SimpleNamespace(manifest=SimpleNamespace(files=files), path=lambda name: folder / name)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A deployment with the kernel."""
    with recorded_kernels() as recording:
        assert compile_in(tmp_path / "first") == [False]
    folder = tmp_path / "deployment"
    folder.mkdir()
    assert save_kernels(recording, folder) == HERE
    return folder


def test_a_kernel_is_stored_without_code_for_the_host(made: Path) -> None:
    (own,) = [path for path in (made / "kernels").iterdir() if path.is_dir()]
    assert sorted(path.suffix for path in own.iterdir()) == [".cubin", ".json"]
    assert Kernels.load(made / KERNELS) == HERE


def test_another_cache_finds_it_in_the_deployment(made: Path, tmp_path: Path) -> None:
    assert compile_in(tmp_path / "second") == [False]
    offer_kernels(deployment_of(made))
    assert compile_in(tmp_path / "third") == [True]
    assert not list((tmp_path / "third").rglob("*.cubin"))
    assert triton.knobs.cache.dir == str(tmp_path / "third")


def test_what_was_compiled_before_is_stored_too(made: Path, tmp_path: Path) -> None:
    with recorded_kernels() as recording:
        assert compile_in(tmp_path / "first") == [True]
    assert len(recording) == 1
    assert compile_in(tmp_path / "first") == [True]
    with recorded_kernels() as nothing:
        pass
    assert nothing == {}


@pytest.mark.parametrize("field", ["gpu", "compute_capability", "torch", "triton", "driver"])
def test_kernels_for_something_else_are_left_alone(
    field: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = dataclasses.replace(HERE, **{field: "another"})
    monkeypatch.setattr(kernel_store, "this_machine", lambda: other)
    offer_kernels(deployment_of(made))
    said = f"kernels are compiled anew: those of the deployment are for {field} {getattr(HERE, field)} instead of"
    assert capsys.readouterr().err.strip() == f"{said} another here"
    assert compile_in(tmp_path / "second") == [False]


def test_a_deployment_without_kernels(tmp_path: Path) -> None:
    offer_kernels(deployment_of(tmp_path))
    assert triton.knobs.cache.manager_class is None


def test_a_users_own_cache_manager_stays(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Own(triton.runtime.cache.FileCacheManager):
        pass

    triton.knobs.cache.manager_class = Own
    offer_kernels(deployment_of(made))
    with recorded_kernels() as recording:
        assert compile_in(tmp_path / "second") == [False]
    assert recording == {}
    assert triton.knobs.cache.manager_class is Own
    assert "TRITON_CACHE_MANAGER is set" in capsys.readouterr().err
