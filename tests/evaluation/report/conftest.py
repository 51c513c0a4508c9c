"""Shared fixtures: artefacts from `tests.toprovar`, and a deployment that paints."""

from __future__ import annotations

from pathlib import Path

import pytest

from toprovar.evaluation.report import style
from toprovar.evaluation.report.material import Material, gather
from toprovar.manifest import Manifest
from toprovar.plan import SparsityPlan
from toprovar.stats import CalibrationStats

from ...tiny_nano import _one_thread, compiled, weights
from ...toprovar.conftest import manifest, plan, stats
from .painter import open_painter, write_deployment

__all__ = ["_one_thread", "compiled", "manifest", "plan", "stats", "weights"]


@pytest.fixture
def deployment(tmp_path: Path, plan: SparsityPlan, manifest: Manifest, stats: CalibrationStats) -> Path:
    return write_deployment(tmp_path / "nano", plan, manifest, stats)


@pytest.fixture
def material(deployment: Path) -> Material:
    return gather(deployment, lambda: open_painter(deployment), 2, lambda *told: None)


@pytest.fixture
def _quiet():
    with style.quiet():
        yield
