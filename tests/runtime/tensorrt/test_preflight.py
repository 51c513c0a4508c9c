"""Engines that do not fit are refused before they are loaded, with all that is wrong and what to do."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toprovar.deployment import PLAN, file_sha256
from toprovar.engines import ENGINES, EngineFile, Engines
from toprovar.errors import BackendError, MissingExtra
from toprovar.runtime.backends.tensorrt import TensorRTBackend
from toprovar.runtime.tensorrt.preflight import Machine, check_engines, read_engines

HERE = Machine("NVIDIA H200", "9.0", "10.15.1.29", "13.0", "13.0")


@pytest.fixture
def deployment(tmp_path: Path) -> Any:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "step.engine").write_bytes(b"engine")
    (tmp_path / PLAN).write_text("{}")
    return SimpleNamespace(folder=tmp_path)


@pytest.fixture
def built(deployment: Any) -> Engines:
    folder = deployment.folder
    digest = file_sha256(folder / "engines" / "step.engine")
    file = EngineFile("step", "engines/step.engine", digest, "0" * 64, (), {}, {}, 3, 100, 1.0)
    return Engines(
        precision="bfloat16",
        plugin="ahead_of_time",
        images=2,
        tensorrt="10.15.1.29",
        cuda="13.0",
        driver="13.0",
        gpu="NVIDIA H200",
        compute_capability="9.0",
        version_compatible=False,
        hardware_compatibility="none",
        refittable=False,
        weight_streaming=False,
        plan_sha256=file_sha256(folder / PLAN),
        files=(file,),
    )


@pytest.mark.parametrize(
    ("changes", "machine"),
    [
        ({}, HERE),
        ({"hardware_compatibility": "same_compute_capability", "gpu": "NVIDIA H100"}, HERE),
        ({"hardware_compatibility": "ampere_plus", "compute_capability": "8.0"}, HERE),
        ({"version_compatible": True, "tensorrt": "10.9.0"}, HERE),
    ],
    ids=["the same", "the same capability", "a later GPU", "a later version"],
)
def test_engines_that_fit(changes: dict[str, Any], machine: Machine, built: Engines, deployment: Any) -> None:
    check_engines(dataclasses.replace(built, **changes), deployment, machine)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"gpu": "NVIDIA H100"}, r"built for NVIDIA H100 \(9.0\), this is NVIDIA H200 \(9.0\)"),
        (
            {"hardware_compatibility": "same_compute_capability", "compute_capability": "8.9"},
            r"built for compute capability 8.9, this is",
        ),
        ({"tensorrt": "10.9.0"}, r"built by TensorRT 10.9.0, this is 10.15.1.29"),
        ({"version_compatible": True, "tensorrt": "11.0.0"}, r"built by TensorRT 11.0.0"),
        ({"version_compatible": True, "tensorrt": "9.3.0"}, r"built by TensorRT 9.3.0"),
        ({"plan_sha256": "1" * 64}, r"plan.json was changed after they were built"),
        ({"cuda": "12.8"}, r"built with CUDA 12.8, this is 13.0"),
        ({"cuda": "14.1"}, r"need a driver for CUDA 14.1, this one knows 13.0"),
    ],
)
def test_what_does_not_fit(changes: dict[str, Any], problem: str, built: Engines, deployment: Any) -> None:
    with pytest.raises(BackendError, match=problem) as caught:
        check_engines(dataclasses.replace(built, **changes), deployment, HERE)
    assert caught.value.hint == f"build them here with `toprovar build {deployment.folder}`"


def spoil(folder: Path) -> None:
    (folder / "engines" / "step.engine").write_bytes(b"other")


def remove(folder: Path) -> None:
    (folder / "engines" / "step.engine").unlink()


def lead_out(folder: Path) -> None:
    remove(folder)
    (folder.parent / "outside").write_bytes(b"engine")
    (folder / "engines" / "step.engine").symlink_to(folder.parent / "outside")


@pytest.mark.parametrize(
    ("change", "problem"),
    [(spoil, "was changed"), (remove, "is missing"), (lead_out, "leads out of the folder")],
)
def test_files(change: Callable[[Path], None], problem: str, built: Engines, deployment: Any) -> None:
    change(deployment.folder)
    with pytest.raises(BackendError, match=rf"engines/step.engine {problem}"):
        check_engines(built, deployment, HERE)


def test_a_graph_that_was_changed(built: Engines, deployment: Any) -> None:
    (deployment.folder / "graphs").mkdir()
    (deployment.folder / "graphs" / "step.onnx").write_bytes(b"graph")
    with pytest.raises(BackendError, match=r"graphs/step.onnx was changed after they were built"):
        check_engines(built, deployment, HERE)


def test_all_problems_at_once(built: Engines, deployment: Any) -> None:
    remove(deployment.folder)
    changed = dataclasses.replace(built, tensorrt="10.9.0", gpu="NVIDIA L4")
    with pytest.raises(BackendError, match=r"NVIDIA L4.*; they were built by TensorRT 10.9.0.*; engines/step.engine"):
        check_engines(changed, deployment, HERE)


def test_the_record_loads_back(built: Engines, deployment: Any) -> None:
    with pytest.raises(BackendError, match="holds no TensorRT engines"):
        read_engines(deployment)
    built.save(deployment.folder / ENGINES)
    assert read_engines(deployment) == built


def test_a_deployment_without_engines(deployment: Any) -> None:
    with pytest.raises(BackendError, match="holds no TensorRT engines") as caught:
        TensorRTBackend.open(deployment)
    assert caught.value.hint == "compile the model with --backend tensorrt"
    (deployment.folder / "graphs").mkdir()
    (deployment.folder / "graphs" / "step.onnx").write_bytes(b"graph")
    with pytest.raises(BackendError, match="holds no TensorRT engines") as caught:
        TensorRTBackend.open(deployment)
    assert str(caught.value.hint).startswith("build them here with `toprovar build ")


def test_without_tensorrt(built: Engines, deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    built.save(deployment.folder / ENGINES)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for call in (lambda: TensorRTBackend.open(deployment), TensorRTBackend.check_available):
        with pytest.raises(MissingExtra, match="tensorrt is not installed"):
            call()
