"""Stages of a long job: time left, remarks, wall-clock."""

from __future__ import annotations

import pytest

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
