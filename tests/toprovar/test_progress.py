"""Stages of a long job: time left, remarks, wall-clock."""

from __future__ import annotations

import pytest

from toprovar import progress
from toprovar.progress import Stages


def test_time_left_is_told_by_what_this_run_did(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    with Stages() as stages:
        monkeypatch.setattr(stages._progress, "get_time", lambda: now[0])
        # an earlier, interrupted run has done 23
        for done in (23, 24, 25, 26):
            stages.progress("calibrate", done, 64)
            now[0] += 10
        (task,) = stages._progress.tasks
        assert (task.completed, task.total) == (26, 64)
        assert task.time_remaining == 380


def test_a_remark_is_one_line_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = "calibration cannot be resumed: /a/very/long/path " + "[bold]x/ :smile: " * 10
    with Stages() as stages:
        stages.progress("calibrate", 0, 2)
        stages.remark(line.strip())
    written = capsys.readouterr()
    assert line.strip() in written.err.splitlines()
    assert written.out == ""


def test_without_a_terminal_lines_tell_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with Stages() as stages:
        monkeypatch.setattr(stages._progress, "get_time", lambda: now[0])
        for done in range(7):
            stages.progress("calibrate", done, 6)
            now[0] += 12
        with stages.waiting("step"):
            now[0] += 5
    # at the beginning, at the end, and every half minute
    assert capsys.readouterr().err.splitlines() == [
        "calibrate: 0 of 6",
        "calibrate: 3 of 6, 0:00:36 left",
        "calibrate: 6 of 6 in 72.0 s",
        "step: begun",
        "step: done in 5.0 s",
    ]


def test_a_stage_that_begins_again(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with Stages() as stages:
        monkeypatch.setattr(stages._progress, "get_time", lambda: now[0])
        for name, seconds in (("export", 5), ("draw", 100), ("export", 7)):
            stages.progress(name, 0, 1)
            now[0] += seconds
            stages.progress(name, 1, 1)
        assert stages.seconds == {"export": 12, "draw": 100}
    ended = [line for line in capsys.readouterr().err.splitlines() if " in " in line]
    assert ended == ["export: 1 of 1 in 5.0 s", "draw: 1 of 1 in 100.0 s", "export: 1 of 1 in 7.0 s"]


def test_a_piece_of_unknown_length(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stages() as stages:
        with stages.waiting("step") as say:
            (task,) = stages._progress.tasks
            assert (task.total, task.finished) == (None, False)
            say("Tactic selection 3/9")
            assert task.description == "step: Tactic selection 3/9"
        assert (task.description, task.total, task.finished) == ("step", 1, True)
        assert stages.seconds["step"] >= 0
        with pytest.raises(ValueError, match="no"), stages.waiting("decode"):
            raise ValueError("no")
        assert not stages._progress.tasks[-1].finished
