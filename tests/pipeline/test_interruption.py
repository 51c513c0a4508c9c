"""Ctrl-C and a full disk in the middle of a compile: one line, and nothing is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ..tiny_nano import PROMPTS, Compiled, as_nano

COMPILE = """
    import sys
    from pathlib import Path
    import torch
    from toprovar.models.nano import settings

    torch.set_num_threads(1)
    settings.WEIGHTS = Path(sys.argv.pop(1))
    {extra}
    from toprovar.cli import compile_main

    sys.argv[1:] = ["nano", "--output", "new", "--prompts", "prompts.txt", "--resolution", "0.06M", *sys.argv[1:]]
    compile_main()
"""


def start(weights: Path, folder: Path, *arguments: str, extra: str = "") -> subprocess.Popen[str]:
    (folder / "prompts.txt").write_text("\n".join(PROMPTS[:2]))
    script = textwrap.dedent(COMPILE).format(extra=extra)
    command = [sys.executable, "-P", "-c", script, str(weights), *arguments]
    # Beside the folder, as what is left in that is compared.
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache_of(folder))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **pipes)


def cache_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-cache")


def entries(folder: Path) -> list[str]:
    """Of all journals that were left."""
    return sorted(path.name for path in cache_of(folder).glob("toprovar/calibration/*/*"))


def partial(folder: Path) -> Path | None:
    return next(folder.glob(".new.partial-*"), None)


def exporting(folder: Path) -> bool:
    found = partial(folder)
    return found is not None and any(found.glob("builds/*"))


@pytest.mark.parametrize(
    ("reached", "seconds"),
    [(lambda folder: partial(folder) is not None, 1.0), (exporting, 2.0)],
    ids=["load or calibrate", "export"],
)
def test_an_interruption_leaves_nothing(
    reached: Callable[[Path], bool], seconds: float, weights: Path, tmp_path: Path
) -> None:
    process = start(weights, tmp_path)
    deadline = time.monotonic() + 90
    while not reached(tmp_path) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(seconds)
    assert process.poll() is None
    assert partial(tmp_path)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().splitlines()[-1] == "error: interrupted"
    assert "Traceback" not in errors
    assert out == ""
    assert os.listdir(tmp_path) == ["prompts.txt"]


# Two graphs are enough to reach the weights, which do not fit the limit.
FULL = """
    import resource, signal
    from toprovar.pipeline import graphs

    every = graphs.build_modules
    graphs.build_modules = lambda *given: {k: v for k, v in every(*given).items() if k in ("text", "decode")}
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 10, 256 << 10))
"""


def test_a_full_disk(weights: Path, tmp_path: Path) -> None:
    process = start(weights, tmp_path, extra=textwrap.indent(textwrap.dedent(FULL), "").strip())
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert (
        errors.strip()
        .splitlines()[-1]
        .endswith("cannot be written: no space is left on its disk; free some, or write to another disk")
    )
    assert "Traceback" not in errors
    assert out == ""
    assert os.listdir(tmp_path) == ["prompts.txt"]


def test_the_deployment_that_was_there_survives_and_force_replaces_it(
    compiled: Compiled, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toprovar.deployment import Deployment
    from toprovar.pipeline import compile as pipeline
    from toprovar.pipeline import graphs

    output = tmp_path / "new"
    shutil.copytree(compiled.folder, output)
    before = (output / "manifest.json").read_bytes()
    (tmp_path / "prompts.txt").write_text(PROMPTS[0])
    options = {
        "prompts": tmp_path / "prompts.txt",
        "resolution": "0.06M",
        "policy": "dense",
        "verify": False,
        "report": False,
    }

    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    every = graphs.build_modules
    with as_nano(weights):
        monkeypatch.setattr(graphs, "save_graphs", interrupt)
        monkeypatch.setattr(graphs, "build_modules", lambda *given: {"decode": every(*given)["decode"]})
        with pytest.raises(KeyboardInterrupt):
            pipeline.compile_model("nano", output, force=True, **options)
        assert (output / "manifest.json").read_bytes() == before
        monkeypatch.setattr(graphs, "save_graphs", lambda graphs, folder: None)
        monkeypatch.setattr(graphs, "build_for_onnxruntime", lambda folder, names: {})
        pipeline.compile_model("nano", output, force=True, **options)
    assert Deployment.open(output).plan.policy == "dense"
    assert sorted(os.listdir(tmp_path)) == ["new", "prompts.txt"]
