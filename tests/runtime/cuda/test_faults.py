"""What a GPU raises reaches a user as one line, wherever it comes up."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toprovar.cli import group, run
from toprovar.runtime.backends import torch as backend
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.cuda.faults import DeviceFault, naming_faults
from toprovar.runtime.cuda.host_copy import HostCopy
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.session import Session

from ...tiny_nano import PROMPTS, Compiled, as_nano, compiled, weights
from .small_model import generate_beside

__all__ = ["compiled", "weights"]

SHORT = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB\nand more"
BROKEN = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"


@pytest.mark.parametrize(("reason", "recoverable"), [(SHORT, True), (BROKEN, False), ("CUBLAS_STATUS_X", False)])
def test_a_fault_says_what_to_do(reason: str, recoverable: bool) -> None:
    with pytest.raises(DeviceFault) as caught, naming_faults():
        raise RuntimeError(reason)
    assert caught.value.recoverable == recoverable
    assert reason.splitlines()[0] in caught.value.message
    assert "\n" not in caught.value.message
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.message, again.hint, again.recoverable) == (caught.value.message, caught.value.hint, recoverable)


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), naming_faults():
        raise RuntimeError("size mismatch")


def test_a_copy_that_is_waited_for() -> None:
    """An error that the device finds late comes up where something is read."""

    class Event:
        def synchronize(self) -> None:
            raise RuntimeError(BROKEN)

    copy = HostCopy(torch.zeros(2))
    copy._event = Event()  # type: ignore[assignment]
    with pytest.raises(DeviceFault, match="the GPU failed"):
        copy.read()


@pytest.mark.parametrize("where", ["encode_text", "begin", "step", "decode"])
@pytest.mark.parametrize(("reason", "said"), [(SHORT, "the GPU is out of memory ("), (BROKEN, "the GPU failed (")])
def test_a_command_prints_one_line(
    reason: str,
    said: str,
    where: str,
    compiled: Compiled,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    graph = {"encode_text": "text", "begin": "prompt", "step": "dense", "decode": "decode"}[where]
    call = TorchBackend._call

    def failing(self: TorchBackend, name: str, *rest: Any) -> Any:
        if name == graph:
            raise RuntimeError(reason)
        return call(self, name, *rest)

    monkeypatch.setattr(TorchBackend, "_call", failing)
    arguments = ["run", str(compiled.folder), PROMPTS[0], "--backend", "torch", "-o", str(tmp_path / "x.png")]
    with as_nano(weights):
        assert run(group, "toprovar", [*arguments, "--dense"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {said}")
    assert not (tmp_path / "x.png").exists()


def test_a_command_refuses_what_was_compiled_for_another_gpu(
    compiled: Compiled, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(compiled.folder, tmp_path / "made")
    manifest = tmp_path / "made" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"backend": "torch", "gpu": "NVIDIA H900"}))
    assert run(group, "toprovar", ["run", str(tmp_path / "made"), PROMPTS[0], "-o", str(tmp_path / "x.png")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: this deployment was compiled for NVIDIA H900; this machine has ")
    assert line.endswith("; compile the model again on this machine, or for onnxruntime, which runs anywhere")
    assert not (tmp_path / "x.png").exists()


def test_a_command_is_refused_while_its_session_generates(
    compiled: Compiled,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """On a CPU, in plain torch: the runtime is the default on a GPU only."""
    monkeypatch.setattr(backend, "choose_runtime", lambda *_: RuntimeOptions.plain())
    codes: list[int] = []
    with as_nano(weights), Session.open(compiled.folder, "torch") as one:
        alone = one(PROMPTS[1], generator=1).images[0]
        monkeypatch.setattr(Session, "open", lambda *_, **__: contextlib.nullcontext(one))
        arguments = ["run", str(compiled.folder), PROMPTS[0], "-o", str(tmp_path / "x.png")]
        made, _ = generate_beside(one, PROMPTS[1], lambda: codes.append(run(group, "toprovar", arguments)), 1)
        assert np.array_equal(made.pixels, alone.pixels)
        assert codes == [1]
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line == (
            "error: a generation is running in another thread, and a session runs one at a time; wait for it to "
            "finish, or run both in one call as a batch"
        )
        assert not (tmp_path / "x.png").exists()
        assert run(group, "toprovar", arguments) == 0
