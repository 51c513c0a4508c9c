"""One small, valid artefact of each kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from toprovar.cost import plan_cost
from toprovar.deployment_writer import DeploymentWriter
from toprovar.manifest import Manifest, ModelRecord, SamplingDefaults, TextRecord
from toprovar.plan import DepthRule, Ranking, ScalePlan, SparsityPlan
from toprovar.stats import CalibrationStats, GuidanceSensitivity, LayerSensitivity, LayerStats, PromptStats, ScaleStats

MODEL = "0123456789abcdef" * 4
GRIDS = ((1, 1), (2, 2), (3, 4))
KEPT = ((1, 1, 1), (4, 4, 3), (12, 6, 0))


@pytest.fixture(scope="session")
def plan() -> SparsityPlan:
    table = (((0.1, 0.2), (0.3, 1 / 3)),) * 3
    return SparsityPlan(
        policy="toprovar",
        parameters={"least": 0.1, "seed": 3, "rank": True, "name": "späť"},
        model_sha256=MODEL,
        scales=tuple(ScalePlan(*grid, kept) for grid, kept in zip(GRIDS, KEPT, strict=True)),
        ranking=Ranking("previous_scale", (0, 2), table, table),
        restoration="identity",
        depth_rule=DepthRule("low_entropy_ratio", 0, -0.5, (0.25, 0.5), (1, 2, 3)),
        cost=plan_cost(64, 3, 16, [h * w for h, w in GRIDS], KEPT, text_tokens=8),
    )


@pytest.fixture(scope="session")
def stats() -> CalibrationStats:
    layer = LayerStats((0.25, 0.5), (0.1, 0.0), ((0, 7, 5), (12, 0, 0)), 0.75, 0.125)
    sensitive = (LayerSensitivity(0.5, 0.01, 0.0625, None), LayerSensitivity(0.25, 0.5, 0.125, None))
    guidance = (GuidanceSensitivity("reused", 0.125, 0.25, 0.03125),)
    keys = (1, 5, 17)
    return CalibrationStats(
        model_sha256=MODEL,
        prompts_sha256="f" * 64,
        seed=0,
        schedule=GRIDS,
        layers=3,
        heads=2,
        scales=tuple(
            ScaleStats(*grid, count, (layer, layer, dataclasses.replace(layer, sensitivity=sensitive)), guidance)
            for grid, count in zip(GRIDS, keys, strict=True)
        ),
        prompts=(PromptStats("a red circle", 3, (0.0, 0.25, 0.5), (0.0, 0.5, 1.0), (0.1, 1.5, 0.0)),),
        seconds={"forward": 1.5},
    )


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return Manifest(
        toprovar_version="0.1.0",
        backend="onnxruntime",
        precision=None,
        model=ModelRecord("infinity", "nano", MODEL, 3, 2, 32, 64, 16, False, (3,), 3, 4, 24, 32),
        sampling=SamplingDefaults((3.0, 3.0, 3.0), (1.0, 0.5, 0.5), 900, 0.97),
        text=TextRecord("words", 64, 32),
        gpu=None,
        versions={"torch": "2.9"},
        files={},
    )


@pytest.fixture
def deployment(tmp_path: Path, plan: SparsityPlan, manifest: Manifest) -> Path:
    """A deployment folder with a graph."""
    return write_deployment(tmp_path / "nano", plan, manifest)


@pytest.fixture(scope="session")
def write(plan: SparsityPlan, manifest: Manifest) -> Callable[..., Path]:
    """Writes a deployment to a target, with the writer's own options."""

    def _write(target: Path, **options: bool) -> Path:
        return write_deployment(target, plan, manifest, **options)

    return _write


def write_deployment(target: Path, plan: SparsityPlan, manifest: Manifest, **options: bool) -> Path:
    with DeploymentWriter(target, **options) as writer:
        plan.save(writer.folder / "plan.json")
        (writer.folder / "graphs").mkdir()
        (writer.folder / "graphs" / "step.onnx").write_bytes(bytes(range(256)))
        writer.manifest = manifest
    return target
