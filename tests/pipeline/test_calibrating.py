"""A calibration through the runtime, call by call in fp32 on a CPU, beside one with the model's own modules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from toprovar.calibration.journal import Journal
from toprovar.calibration.recorder import EntropyRecorder
from toprovar.errors import BackendError, CheckpointError
from toprovar.pipeline.calibrating import calibrated
from toprovar.pipeline.subject import Subject
from toprovar.progress import Stages
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.cuda.runtime import Runtime
from toprovar.stats import CalibrationStats

from ..tiny_nano import PROMPTS, as_nano

PLAIN = RuntimeOptions.plain()


@pytest.fixture
def subject(weights: Path, tmp_path: Path) -> Iterator[Subject]:
    with as_nano(weights, tmp_path / "cache"):
        yield Subject.open("nano", resolution="0.06M")


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> list[Runtime]:
    """All that are opened, on a machine whose device the runtime takes."""
    opened: list[Runtime] = []
    every = Runtime.__init__

    def noted(self: Runtime, *given: object, **options: object) -> None:
        assert all(one._closed for one in opened), "two at a time"
        every(self, *given, **options)  # type: ignore[arg-type]
        opened.append(self)

    monkeypatch.setattr(Runtime, "__init__", noted)
    monkeypatch.setattr(Subject, "runtime", lambda self: PLAIN)
    return opened


def calibrate(subject: Subject, folder: Path, probes: str | None = None) -> tuple[CalibrationStats, Journal]:
    with Stages() as stages:
        made = calibrated(subject, PROMPTS[:2], 0, stages, folder / "table.safetensors", probes)
    return made.stats, made.journal


def test_a_cpu_has_no_runtime(subject: Subject) -> None:
    if subject.device.type == "cpu":
        assert subject.runtime() is None


def test_both_passes_agree_with_the_modules(subject: Subject, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    exact, first = calibrate(subject, tmp_path)
    runtimes = request.getfixturevalue("runtimes")
    own, second = calibrate(subject, tmp_path)
    assert len(runtimes) == 2
    assert all(one._closed for one in runtimes)
    for scale, other in zip(own.scales, exact.scales, strict=True):
        for layer, true in zip(scale.layers, other.layers, strict=True):
            assert layer.entropy_mean == pytest.approx(true.entropy_mean, abs=1e-4)
            assert layer.entropy_deviation == pytest.approx(true.entropy_deviation, abs=1e-4)
            assert layer.principal_component_ratio == pytest.approx(true.principal_component_ratio, abs=1e-4)
    for prompt, one in zip(own.prompts, exact.prompts, strict=True):
        assert prompt.low_entropy_ratio == pytest.approx(one.low_entropy_ratio, abs=0.02)
        # Before the first scale there are no codes, and the tiny decoder's norms divide by little but rounding.
        assert prompt.high_frequency[1:] == pytest.approx(one.high_frequency[1:], rel=1e-3)
    # Neither goes on with what the other has measured.
    assert first.folder is not None
    assert second.folder is not None
    assert first.folder != second.folder


def test_an_interrupted_one_goes_on(
    subject: Subject, runtimes: list[Runtime], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, journal = calibrate(subject, tmp_path)
    assert journal.folder is not None
    (journal.folder / "recording-000001.safetensors").unlink()
    (journal.folder / "observation-000000.safetensors").unlink()
    again, _ = calibrate(subject, tmp_path)
    assert "resuming calibration: 1 of 2 prompts are done" in capsys.readouterr().err
    assert again.scales == expected.scales
    np.testing.assert_array_equal(
        [one.low_entropy_ratio for one in again.prompts], [one.low_entropy_ratio for one in expected.prompts]
    )


def test_sensitivities_are_measured_once_the_runtime_is_gone(
    subject: Subject, runtimes: list[Runtime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = Subject.torch_backend

    def checked(self: Subject, *given: object, **options: object) -> object:
        assert all(one._closed for one in runtimes)
        return every(self, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Subject, "torch_backend", checked)
    stats, _ = calibrate(subject, tmp_path, "cached")
    assert stats.scales[-1].layers[0].sensitivity
    assert len(runtimes) == 2


def test_nothing_is_held_after_an_error(
    subject: Subject, runtimes: list[Runtime], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: EntropyRecorder, first: int, hidden: object) -> None:
        raise CheckpointError("layer 0 computes numbers that are not finite", "give another checkpoint")

    monkeypatch.setattr(EntropyRecorder, "on_hidden", refuse)
    with pytest.raises(CheckpointError, match="not finite"):
        calibrate(subject, tmp_path)
    (own,) = runtimes
    assert own._closed
    with pytest.raises(BackendError, match="this session is closed"):
        own.decode(None)  # type: ignore[arg-type]
