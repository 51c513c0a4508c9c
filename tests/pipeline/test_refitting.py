"""A LoRA in a deployment of its own: graphs for real, engines refitted by a stand-in."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from toprovar.cli import group, run
from toprovar.deployment import Deployment
from toprovar.engines import ENGINES, Engines
from toprovar.pipeline import refitting
from toprovar.runtime.tensorrt.preflight import check_engines

from .test_tensorrt_build import HERE, Builder, build, builder, deployment, portable

__all__ = ["builder", "deployment", "portable"]


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    factors = {"A": np.ones((2, 64), np.float32), "B": np.ones((64, 2), np.float32)}
    save_file(
        {f"blocks.1.ca.proj.lora_{side}.weight": one for side, one in factors.items()}, tmp_path / "style.safetensors"
    )
    return tmp_path / "style.safetensors"


def refit(deployment: Path, lora: Path, output: Path, *more: str) -> int:
    return run(group, "toprovar", ["refit", str(deployment), "--lora", str(lora), "-o", str(output), *more])


def test_graphs_alone(deployment: Path, lora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in (deployment / "graphs").iterdir()}
    assert refit(deployment, lora, tmp_path / "styled", "--strength", "0.5", "--json") == 0
    written = capsys.readouterr().out
    assert json.loads(written)["weights"] == {"step": 1}
    made = Deployment.open(tmp_path / "styled")
    assert made.manifest.model.source == "nano with style.safetensors at 0.5"
    after = {path.name: path.read_bytes() for path in (tmp_path / "styled" / "graphs").iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"step.onnx", "weights.bin"}
    assert {path.name: path.read_bytes() for path in (deployment / "graphs").iterdir()} == before


def test_engines_are_refitted(
    deployment: Path, lora: Path, tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def refit_engine(engine: Path, graph: Path, target: Path, host_code: bool) -> None:
        calls.append((engine.name, graph.name, host_code))
        target.write_bytes(engine.read_bytes() + b" refitted")

    module = types.ModuleType("toprovar.compiler.tensorrt.refit")
    module.refit_engine = refit_engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(refitting, "open_library", lambda: SimpleNamespace(this_machine=lambda: HERE))
    from toprovar.compiler.tensorrt.options import BuildOptions

    before = build(deployment, options=BuildOptions(refittable=True))
    assert refit(deployment, lora, tmp_path / "styled") == 0
    assert calls == [("step.engine", "step.onnx", False)]
    after = Engines.load(tmp_path / "styled" / ENGINES)
    check_engines(after, Deployment.open(tmp_path / "styled"), HERE)
    changed = {one.graph for one, other in zip(before.files, after.files, strict=True) if one.sha256 != other.sha256}
    assert changed == {"step"}


def test_engines_that_hold_their_weights_for_good(
    deployment: Path,
    lora: Path,
    tmp_path: Path,
    builder: Builder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(refitting, "open_library", lambda: SimpleNamespace(this_machine=lambda: HERE))
    build(deployment)
    assert refit(deployment, lora, tmp_path / "styled") == 1
    assert f"hold their weights for good; toprovar build {deployment} --refittable" in capsys.readouterr().err
    assert not (tmp_path / "styled").exists()


def test_a_lora_of_another_model(deployment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(
        {f"blocks.40.sa.proj.lora_{side}.weight": np.ones((2, 2), np.float32) for side in "AB"}, tmp_path / "other"
    )
    assert refit(deployment, tmp_path / "other", tmp_path / "styled") == 2
    assert "changes blocks.40.sa.proj, which is no product of this model" in capsys.readouterr().err
    assert not (tmp_path / "styled").exists()
