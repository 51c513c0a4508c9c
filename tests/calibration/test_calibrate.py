"""The two passes over the prompts, with a stand-in for the model."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from toprovar.calibration.fold import Fold
from toprovar.calibration.journal import Journal
from toprovar.calibration.prompt_table import PromptTable
from toprovar.calibration.recorder import EntropyRecorder
from toprovar.calibration.recording import Recording
from toprovar.errors import UsageError
from toprovar.plan import Ranking
from toprovar.stats import CalibrationStats

from .synthetic import GRIDS, HEADS, LAYERS, Seen, entropies, keep_quiet, record, run, show, watch

PROMPTS = ("a", "b", "c", "b", "e")
KEY = "f" * 64


def untimed(stats: CalibrationStats) -> CalibrationStats:
    return dataclasses.replace(stats, seconds={})


def test_both_passes_use_the_same_seeds_and_the_second_the_moments_of_the_first(tmp_path: Path) -> None:
    calls: list[tuple[object, ...]] = []

    def measure(prompt: str, seed: int) -> Recording:
        calls.append(("measure", prompt, seed))
        return record(seed)

    def observe(ranking: Ranking) -> object:
        calls.append(("ranking", ranking.mean))

        def watched(prompt: str, seed: int) -> list[Seen]:
            calls.append(("observe", prompt, seed))
            maps = np.array([-1.0]), np.array([-1.0, -0.6, -0.4, 2.0]), np.zeros(15)
            return [Seen(entropy, 0.25 * scale) for scale, entropy in enumerate(maps)]

        return watched

    stats = run(tmp_path / "t", PROMPTS, measure=measure, observe=observe, progress=lambda *told: calls.append(told))
    for name in ("measure", "observe"):
        assert [call for call in calls if call[0] == name and len(call) == 3 and isinstance(call[1], str)] == [
            (name, p, 5 + i) for i, p in enumerate(PROMPTS)
        ]
    for stage in ("calibrate", "observe"):
        told = [call for call in calls if call[0] == stage and isinstance(call[1], int)]
        assert told == [(stage, i, 5) for i in range(6)]
    order = [call[0] for call in calls]
    assert order.index("ranking") == 2 * len(PROMPTS) + 1
    fold = Fold(GRIDS, LAYERS, HEADS)
    for seed in range(5, 10):
        fold.add(record(seed))
    assert stats.scales == fold.scales()
    means = fold.entropy_mean()
    (ranking,) = (call[1] for call in calls if call[0] == "ranking")
    np.testing.assert_array_equal(ranking, means[:, sorted({LAYERS // 2, 3 * LAYERS // 4})])

    assert [prompt.prompt for prompt in stats.prompts] == list(PROMPTS)
    assert [prompt.seed for prompt in stats.prompts] == [5, 6, 7, 8, 9]
    assert [prompt.low_entropy_ratio for prompt in stats.prompts] == [(1.0, 0.5, 0.0)] * 5
    assert [prompt.high_frequency for prompt in stats.prompts] == [(0.0, 0.25, 0.5)] * 5
    for prompt in stats.prompts:
        expected = [values.astype(np.float64).mean() for values in entropies(prompt.seed)]
        assert prompt.entropy_mean == pytest.approx(expected, rel=1e-13)
    assert stats.prompts_sha256 == hashlib.sha256(b"a\nb\nc\nb\ne").hexdigest()
    assert list(stats.seconds) == ["generation", "entropy", "principal components", "observation"]
    assert all(seconds > 0 for seconds in stats.seconds.values())
    assert CalibrationStats.from_json(stats.to_json()) == stats


def test_times_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("toprovar.calibration.calibrate.time.perf_counter", lambda: next(clock))
    shown = dataclasses.replace(record(0), entropy_seconds=2.0, principal_component_seconds=3.0)
    stats = run(tmp_path / "t", ["a", "b"], measure=lambda prompt, seed: shown)
    assert stats.seconds == {"generation": 10.0, "entropy": 4.0, "principal components": 6.0, "observation": 20.0}


def test_no_prompts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no calibration prompts"):
        run(tmp_path / "t", ())


class Interrupting:
    """Both passes; Ctrl-C comes with a given call."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.calls: list[str] = []

    def count(self, prompt: str) -> None:
        if len(self.calls) == self.after:
            raise KeyboardInterrupt
        self.calls.append(prompt)

    def measure(self, prompt: str, seed: int) -> Recording:
        self.count(prompt)
        return record(seed)

    def observe(self, ranking: Ranking) -> object:
        def watched(prompt: str, seed: int) -> Sequence[np.ndarray]:
            self.count(prompt)
            return watch(prompt, seed)

        return watched


@pytest.mark.parametrize("after", [0, 1, 4, 5, 7, 9])
def test_an_interrupted_calibration_resumes_to_the_same_bits(after: int, tmp_path: Path) -> None:
    expected = run(tmp_path / "whole", PROMPTS)
    remarks: list[str] = []
    journal = Journal(tmp_path / "cache", KEY, remarks.append)
    first = Interrupting(after)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "table", PROMPTS, journal, measure=first.measure, observe=first.observe)
    assert remarks == []
    assert (tmp_path / "table").exists() == (after >= 5)

    told: list[tuple[str, int, int]] = []
    second = Interrupting(10)
    journal = Journal(tmp_path / "cache", KEY, remarks.append)
    stats = run(
        tmp_path / "table",
        PROMPTS,
        journal,
        measure=second.measure,
        observe=second.observe,
        progress=lambda *one: told.append(one),
    )
    assert len(second.calls) == 10 - after
    assert untimed(stats) == untimed(expected)
    assert (tmp_path / "table").read_bytes() == (tmp_path / "whole").read_bytes()
    measured, observed = min(after, 5), max(after - 5, 0)
    assert remarks == [
        f"resuming {name}: {done} of 5 prompts are done"
        for name, done in (("calibration", measured), ("observation", observed))
        if done
    ]
    assert told == [("calibrate", i, 5) for i in range(measured, 6)] + [("observe", i, 5) for i in range(observed, 6)]
    # the first run's times count, too
    assert all(seconds > 0 for seconds in stats.seconds.values())


def test_a_damaged_entry_in_the_middle_is_measured_again(tmp_path: Path) -> None:
    expected = run(tmp_path / "table", PROMPTS, Journal(tmp_path / "cache", KEY, keep_quiet))
    entry = tmp_path / "cache" / KEY / "recording-000002.safetensors"
    content = bytearray(entry.read_bytes())
    content[-9] ^= 1
    entry.write_bytes(content)
    again, remarks = Interrupting(10), []
    journal = Journal(tmp_path / "cache", KEY, remarks.append)
    stats = run(tmp_path / "table", PROMPTS, journal, measure=again.measure, observe=again.observe)
    assert again.calls == ["c"]
    assert remarks == ["resuming calibration: 4 of 5 prompts are done", "resuming observation: 5 of 5 prompts are done"]
    assert untimed(stats) == untimed(expected)


def test_observations_of_other_moments_are_made_again(tmp_path: Path) -> None:
    def cached() -> Journal:
        return Journal(tmp_path / "cache", KEY, keep_quiet)

    run(tmp_path / "table", PROMPTS, cached())
    (tmp_path / "cache" / KEY / "recording-000001.safetensors").unlink()
    again = Interrupting(10)
    changed = dataclasses.replace(record(6), entropy_sum=record(6).entropy_sum * 0.5)
    stats = run(tmp_path / "table", PROMPTS, cached(), measure=lambda prompt, seed: changed, observe=again.observe)
    assert again.calls == list(PROMPTS)
    expected = run(tmp_path / "other", PROMPTS, measure=lambda prompt, seed: changed if seed == 6 else record(seed))
    assert untimed(stats) == untimed(expected)


PROGRAM = """
    import importlib.util, sys, time
    from pathlib import Path
    from toprovar import cli, interruption
    from toprovar.calibration.journal import Journal
    from tests.calibration.synthetic import record, run, keep_quiet
    from toprovar.progress import Stages
    import click

    def measure(prompt, seed):
        if seed == 8:
            print("waiting", flush=True)
            time.sleep(60)
        return record(seed)

    @click.command()
    def command():
        with Stages() as stages:
            journal = Journal(Path("cache"), "f" * 64, stages.remark)
            run(Path("table"), ("a", "b", "c", "b", "e"), journal, measure=measure, progress=stages.progress)

    cli.run_as_program(command, "x", [])
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal(number: int, code: int, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    script = f"import sys; sys.path.append({str(root)!r})\n" + textwrap.dedent(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert len(os.listdir(tmp_path / "cache" / KEY)) == 3
    remarks: list[str] = []
    stats = run(tmp_path / "table", PROMPTS, Journal(tmp_path / "cache", KEY, remarks.append))
    assert remarks == ["resuming calibration: 3 of 5 prompts are done"]
    assert untimed(stats) == untimed(run(tmp_path / "whole", PROMPTS))


def test_memory_does_not_grow_with_the_prompts(tmp_path: Path) -> None:
    recorder = EntropyRecorder(GRIDS, LAYERS, HEADS)

    def measure(prompt: str, seed: int) -> Recording:
        show(recorder, seed)
        return recorder.recording()

    def peak(prompts: int) -> int:
        journal = Journal(tmp_path / f"cache{prompts}", KEY, keep_quiet)
        names = [f"prompt {index}" for index in range(prompts)]
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        run(tmp_path / f"table{prompts}", names, journal, measure=measure)
        return tracemalloc.get_traced_memory()[1] - before

    row = record(0)
    bytes_of_row = sum(part.nbytes for part in (row.entropy_sum, row.entropy_square, row.histogram))
    tracemalloc.start()
    try:
        peak(5)
        grown = peak(200) - peak(20)
    finally:
        tracemalloc.stop()
    # a prompt's text, its statistics by scale, and nothing of its recording
    assert grown < 180 * 1200 < 180 * bytes_of_row / 2
    assert (tmp_path / "table200").stat().st_size > 200 * bytes_of_row


def test_a_journal_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    remarks: list[str] = []
    stats = run(tmp_path / "table", PROMPTS, Journal(tmp_path / "cache", KEY, remarks.append))
    assert len(remarks) == 1
    assert remarks[0].startswith("calibration cannot be resumed if interrupted")
    assert untimed(stats) == untimed(run(tmp_path / "whole", PROMPTS))


def test_the_table_beside_the_statistics(tmp_path: Path) -> None:
    stats = run(tmp_path / "table", PROMPTS)
    table = PromptTable.load(tmp_path / "table", stats)
    assert untimed(table.subset(range(5))) == untimed(stats)
