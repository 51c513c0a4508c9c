"""Errors: one line, the right exit code, and alive after a trip through another process."""

from __future__ import annotations

import pickle

import pytest

from toprovar import errors


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (errors.ToProVARError("bad\n  thing"), "error: bad thing", 1),
        (errors.UsageError("bad", "do this"), "error: bad; do this", 2),
        (errors.CheckpointError("bad", "do this"), "error: bad; do this", 1),
        (errors.BackendError("bad"), "error: bad", 1),
        (errors.VerificationFailed("bad"), "error: bad", 1),
        (
            errors.ArtefactError("expected 1, got 2", "mend", field="scales[9].kept[3]", file="plan.json"),
            "error: plan.json: scales[9].kept[3]: expected 1, got 2; mend",
            1,
        ),
        (
            errors.MissingExtra("torch", "compile"),
            "error: torch is not installed; expected the extra 'compile'; pip install \"toprovar[compile]\"",
            1,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_line_and_code(error: errors.ToProVARError, line: str, code: int) -> None:
    copy = pickle.loads(pickle.dumps(error))
    for one in (error, copy):
        assert type(one) is type(error)
        assert one.one_line() == line
        assert one.exit_code == code


@pytest.mark.parametrize(
    ("parent", "field", "path"),
    [("scales[2]", "kept[1]", "scales[2].kept[1]"), ("mean", "[1]", "mean[1]"), ("cost", "", "cost"), ("", "a", "a")],
)
def test_under_joins_paths(parent: str, field: str, path: str) -> None:
    assert errors.ArtefactError("wrong", field=field).under(parent).field == path
