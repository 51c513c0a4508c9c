"""Artefacts as a reader sees them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console, RenderableType

from toprovar import diagnosis
from toprovar.diagnosis import Package
from toprovar.errors import BackendError
from toprovar.manifest import Manifest
from toprovar.plan import DepthRule, SparsityPlan
from toprovar.reports import depth_words, heat_row, manifest_table, plan_views, stats_table
from toprovar.stats import CalibrationStats


def _text(*parts: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=160, markup=False)
    console.print(*parts, sep="\n")
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_heat_row_leaves_blank_and_fills_only_the_extremes() -> None:
    assert heat_row([0, 0.001, 0.5, 0.999, 1]) == " ▁▄▇█"
    assert heat_row([0, 0.001, 0.5, 0.999, 1], unicode=False) == " 1478"


def test_a_plan(plan: SparsityPlan) -> None:
    text = _text(*plan_views(plan))
    row = next(line for line in text.splitlines() if "3 x 4" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][:5] == ["2", "3 x 4", "12", "50%", "█▄"]
    assert f"{plan.cost.ratio:.0%}" in text
    assert "ranking: previous_scale, observer layers: 0, 2" in text
    assert "least=0.1" in text


def test_depth_words() -> None:
    rule = DepthRule("low_entropy_ratio", 1, -0.5, (0.25, 0.5), (2, 3, 4))
    assert depth_words(rule, scales=4)[1:] == [
        "  r < 0.25: sparse from scale 2",
        "  0.25 <= r < 0.5: sparse from scale 3",
        "  0.5 <= r: every scale runs dense",
    ]
    constant = DepthRule("low_entropy_ratio", 1, -0.5, (), (2,))
    assert depth_words(constant, scales=4)[1:] == ["  any r: sparse from scale 2"]


def test_a_manifest(manifest: Manifest) -> None:
    text = _text(manifest_table(manifest))
    for part in ("infinity from nano", "3 layers, width 64, 2 heads of 32", "3 at every scale", "1, 0.5, 0.5"):
        assert part in text


def test_statistics(stats: CalibrationStats) -> None:
    text = _text(stats_table(stats))
    row = next(line for line in text.splitlines() if "3 x 4" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["2", "3 x 4", "17", "0.375", "▃▃▃", "▆▆▆", "1.000"]
    assert "forward 1.5 s" in text


@pytest.mark.parametrize(
    ("installed", "suffices"),
    [(None, False), ("2.9", True), ("2.10.1+cu130", True), ("2.8.9", False), ("3", True), ("2.9rc1", True)],
)
def test_versions(installed: str | None, suffices: bool) -> None:
    assert Package("torch", "2.9", installed).suffices is suffices


def test_backends_say_what_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Registry:
        def names(self) -> tuple[str, ...]:
            return ("good", "bad")

        def load(self, name: str) -> Registry:
            self.name = name
            return self

        def check_available(self) -> str:
            if self.name == "bad":
                raise BackendError("no GPU", "plug one in")
            return "on the CPU"

    monkeypatch.setattr(diagnosis, "BACKENDS", Registry())
    good, bad = diagnosis.diagnose().backends
    assert (good.works, good.detail, good.remedy) == (True, "on the CPU", None)
    assert (bad.works, bad.detail, bad.remedy) == (False, "no GPU", "plug one in")
