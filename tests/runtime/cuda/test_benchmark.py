"""The benchmark of generations, on a model that a CPU runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

GENERATE = Path(__file__).resolve().parents[3] / "benchmarks" / "generate.py"


def generate(folder: Path, plans: Sequence[str], *options: str) -> dict[str, Any]:
    """The report of a run with some plans."""
    names = [part for name in plans for part in ("--only", name)]
    command = [sys.executable, str(GENERATE), "--model", "tiny", "--device", "cpu", "--laps", "1", *names, *options]
    subprocess.run([*command, "--output", str(folder / "report.json")], check=True, capture_output=True)
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


@pytest.mark.slow
def test_a_trial_on_a_cpu(tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    found = generate(tmp_path, ["dense", "keep25", "fastvar", "eager"], "--plot", str(plot))
    assert [one["name"] for one in found["results"]] == ["dense", "keep25", "fastvar", "eager"]
    assert found["precision"] == "fp32"
    for one in found["results"]:
        assert len(one["median_scales_ms"]) == 7
        assert one["median_total_ms"] >= one["median_device_ms"] > 0
    assert plot.stat().st_size > 1000


@pytest.mark.slow
def test_fp8_is_what_it_says(tmp_path: Path) -> None:
    found = generate(tmp_path, ["dense"], "--precision", "fp8", "--low-vram")
    assert found["precision"] == "fp8"
    assert len(found["results"]) == 1
