"""Ctrl-C during a calibration, and the same command again."""

from __future__ import annotations

import dataclasses
import os
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest

from toprovar.pipeline import compile as pipeline
from toprovar.pipeline import graphs
from toprovar.stats import CalibrationStats

from ..tiny_nano import PROMPTS, as_nano
from .test_interruption import cache_of, entries, start

# The second prompt never ends.
STUCK = """
    import time
    from toprovar.runtime.session import Session

    every, calls = Session.run_scales, []

    def call(self, *given, **options):
        calls.append(given)
        if len(calls) == 2:
            print("waiting", flush=True)
            time.sleep(60)
        return every(self, *given, **options)

    Session.run_scales = call
"""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compile that exports next to nothing: calibration is all that counts here."""
    every = graphs.build_modules
    monkeypatch.setattr(graphs, "build_modules", lambda *given: {"decode": every(*given)["decode"]})
    monkeypatch.setattr(graphs, "save_graphs", lambda graphs, folder: None)
    monkeypatch.setattr(graphs, "build_for_onnxruntime", lambda folder, names: {})


def compile_in(folder: Path, weights: Path, cache: Path | None = None) -> CalibrationStats:
    options: dict[str, Any] = {
        "resolution": "0.06M",
        "policy": "dense",
        "verify": False,
        "report": False,
        "force": True,
    }
    with as_nano(weights, cache):
        pipeline.compile_model("nano", folder / "new", prompts=folder / "prompts.txt", **options)
    stats = CalibrationStats.load(folder / "new" / "report" / "calibration.json")
    return dataclasses.replace(stats, seconds={})


@pytest.mark.usefixtures("quick")
def test_a_second_run_goes_on_where_the_first_was_interrupted(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = start(weights, tmp_path, extra=textwrap.dedent(STUCK).strip())
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "error: interrupted"
    assert entries(tmp_path) == ["recording-000000.safetensors"]
    assert os.listdir(tmp_path) == ["prompts.txt"]

    table = tmp_path / "new" / "report" / "calibration.safetensors"
    capsys.readouterr()
    resumed, rows = compile_in(tmp_path, weights, cache_of(tmp_path)), table.read_bytes()
    assert "resuming calibration: 1 of 2 prompts are done" in capsys.readouterr().err.splitlines()
    # it has served
    assert list(cache_of(tmp_path).glob("toprovar/calibration/*")) == []

    assert compile_in(tmp_path, weights) == resumed
    assert "resuming" not in capsys.readouterr().err
    assert table.read_bytes() == rows


@pytest.mark.usefixtures("quick")
def test_a_compile_that_fails_later_keeps_the_calibration_and_other_prompts_do_not_use_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:2]))

    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(graphs, "save_graphs", interrupt)
        compile_in(tmp_path, weights, cache_of(tmp_path))
    made = [f"{kind}-00000{index}.safetensors" for kind in ("observation", "recording") for index in (0, 1)]
    assert entries(tmp_path) == made

    (tmp_path / "prompts.txt").write_text("\n".join(reversed(PROMPTS[:2])))
    compile_in(tmp_path, weights, cache_of(tmp_path))
    assert "resuming" not in capsys.readouterr().err
    assert entries(tmp_path) == made

    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:2]))
    compile_in(tmp_path, weights, cache_of(tmp_path))
    lines = capsys.readouterr().err.splitlines()
    assert "resuming calibration: 2 of 2 prompts are done" in lines
    assert "resuming observation: 2 of 2 prompts are done" in lines
    assert entries(tmp_path) == []


@pytest.mark.usefixtures("quick")
def test_a_cache_that_cannot_be_written(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:2]))
    (tmp_path / "cache").write_text("not a folder")
    stats = compile_in(tmp_path, weights, tmp_path / "cache")
    told = [line for line in capsys.readouterr().err.splitlines() if "cannot be resumed" in line]
    assert len(told) == 1
    assert str(tmp_path / "cache") in told[0]
    assert len(stats.prompts) == 2
