"""The command that trains nano."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from toprovar.errors import ToProVARError
from toprovar.models.nano import settings, train
from toprovar.models.nano.train_tokenizer import TokenizerSettings
from toprovar.models.nano.train_transformer import TransformerSettings


class Called:
    """Stands in for both trainings and notes how they were called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, finished: bool = True) -> None:
        self.tokenizer: dict[str, Any] = {}
        self.transformer: dict[str, Any] = {}
        self.finished = finished
        self.error: Exception | None = None
        monkeypatch.setattr(train, "train_tokenizer", self._tokenizer)
        monkeypatch.setattr(train, "train_transformer", self._transformer)

    def _tokenizer(
        self, processes: Any, out: Path, plan: Any, chosen: Any, workers: Any, resume: bool, weights: Any = None
    ) -> bool:
        self.tokenizer = {"plan": plan, "chosen": chosen, "resume": resume, "weights": weights}
        return self.finished

    def _transformer(
        self, processes: Any, out: Path, tokenizer: Path, plan: Any, chosen: Any, workers: Any, resume: bool
    ) -> bool:
        self.transformer = {"plan": plan, "chosen": chosen, "resume": resume, "tokenizer": tokenizer}
        if self.error:
            raise self.error
        return self.finished


def run(*arguments: str) -> Any:
    return CliRunner().invoke(train.main, [*arguments, "--workers", "1"])


def test_transformer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called = Called(monkeypatch)
    began = time.time()
    out = ("--out", str(tmp_path))
    result = run("transformer", *out, "--seconds", "1400", "--stop-after", "580", "--resume", "--batch", "64")
    assert result.exit_code == 0, result.output
    plan = called.transformer["plan"]
    assert (plan.seconds, plan.rate, plan.finish, plan.save_every) == (1400, 1.5e-3, False, 60)
    assert 0 <= plan.stop_at - (began + 555) < 5
    assert called.transformer["chosen"] == TransformerSettings(batch=64)
    assert called.transformer["resume"]
    assert called.transformer["tokenizer"] == settings.WEIGHTS / "vae.safetensors"
    assert called.tokenizer == {}


def test_tokenizer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called = Called(monkeypatch)
    result = run("tokenizer", "--out", str(tmp_path), "--seconds", "100", "--noise-share", "0.3", "--rate", "6e-4")
    assert result.exit_code == 0, result.output
    assert called.tokenizer["chosen"] == TokenizerSettings(noise_share=0.3)
    assert called.tokenizer["plan"].rate == 6e-4


@pytest.mark.parametrize("finished", [True, False])
def test_all_trains_the_transformer_on_a_finished_tokenizer(
    finished: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called = Called(monkeypatch, finished)
    result = run("all", "--out", str(tmp_path), "--seconds", "1000")
    assert result.exit_code == 0, result.output
    assert called.tokenizer["plan"].seconds == 300
    assert bool(called.transformer) == finished
    if finished:
        assert called.transformer["plan"].seconds == 700
        assert called.transformer["tokenizer"] == tmp_path / "vae.safetensors"
        assert not called.transformer["resume"]


def test_all_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called = Called(monkeypatch)
    (tmp_path / "state.json").write_text("{}")
    assert run("all", "--out", str(tmp_path), "--seconds", "1000", "--resume").exit_code == 0
    assert called.tokenizer == {}
    assert called.transformer["resume"]


def test_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    called = Called(monkeypatch)
    called.error = ToProVARError("no state", "leave out --resume")
    result = run("transformer", "--out", str(tmp_path), "--seconds", "1")
    assert result.exit_code == 1
    assert result.output == "Error: no state; leave out --resume\n"


def test_finish_needs_an_end(tmp_path: Path) -> None:
    result = run("transformer", "--out", str(tmp_path), "--seconds", "1", "--finish")
    assert result.exit_code == 2
    assert "--finish needs --stop-after" in result.output


def test_several_gpus_get_a_process_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launched: list[list[str]] = []
    monkeypatch.setattr(train.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(train, "run_processes", launched.append)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(sys, "argv", ["train", "transformer", "--seconds", "5"])
    assert run("transformer", "--out", str(tmp_path), "--seconds", "5").exit_code == 0
    (arguments,) = launched
    assert arguments[:2] == ["--nproc-per-node", "2"]
    assert arguments[4:9] == ["-m", "toprovar.models.nano.train", "transformer", "--seconds", "5"]
    assert abs(float(arguments[-1]) - time.time()) < 60
