"""The runtime as a user meets it on a GPU: compiled for, opened by default, warm in a second process, refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from toprovar.cli import group, run
from toprovar.deployment import Deployment
from toprovar.errors import BackendError
from toprovar.kernels import KERNELS, Kernels
from toprovar.precision import PRECISION, PrecisionErrors
from toprovar.runtime.backends.base import EngineOptions
from toprovar.runtime.cuda import runtime
from toprovar.runtime.session import Session

from ..runtime.cuda.small_model import generate_beside
from ..tiny_nano import PROMPTS, as_nano, equal_bits, make_weights

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

SCRIPT = """
import sys
from pathlib import Path
from toprovar.cli import group, run
from toprovar.models.nano import settings

settings.WEIGHTS = Path(sys.argv[1])
sys.exit(run(group, "toprovar", sys.argv[2:]))
"""
BATCHES = """
import sys
from pathlib import Path
from toprovar.models.nano import settings
from toprovar.runtime.session import Session

settings.WEIGHTS = Path(sys.argv[1])
with Session.open(sys.argv[2]) as session:
    for batch in (2, 4, 8):
        session(sys.argv[3], num_images_per_prompt=batch, batch_size=batch)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    make_weights(folder)
    return folder


@pytest.fixture(scope="module")
def deployment(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny nano compiled for the torch backend on this GPU."""
    folder = tmp_path_factory.mktemp("deployment")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    # A process of its own: kernels that this one has loaded before would not be stored.
    arguments = ["compile", "nano", "--output", folder / "made", "--prompts", folder / "prompts.txt"]
    arguments += ["--backend", "torch", "--resolution", "0.06M", "--target-flops", "0.7", "--no-report"]
    _in_another_process(weights, arguments)
    assert json.loads((folder / "made" / "report" / "verify.json").read_text())
    return folder / "made"


def _in_another_process(weights: Path, arguments: Sequence[object], script: str = SCRIPT, **environment: str) -> str:
    """What a command of ours, or another script, prints on stderr there."""
    command = [sys.executable, "-P", "-c", script, str(weights), *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(autouse=True)
def _nano(weights: Path) -> Iterator[None]:
    with as_nano(weights):
        yield


def test_the_manifest_says_what_it_is_for(deployment: Path) -> None:
    opened = Deployment.open(deployment)
    manifest, kernels = opened.manifest, Kernels.load(opened.path(KERNELS))
    assert manifest.gpu == kernels.gpu == torch.cuda.get_device_name()
    assert (manifest.backend, manifest.precision) == ("torch", "bf16")
    assert manifest.versions["triton"] == kernels.triton
    assert manifest.versions["cuda driver"] == kernels.driver
    stored = [name for name in manifest.files if name.startswith("kernels/")]
    assert sum(name.endswith(".cubin") for name in stored) >= 8
    assert {Path(name).suffix for name in stored} == {".cubin", ".json"}


def test_verification_compared_every_scale(deployment: Path) -> None:
    checks = json.loads((deployment / "report" / "verify.json").read_text())
    assert {check["graph"] for check in checks} == {"dense", "sparse"}
    assert all(check["passed"] for check in checks)


def test_precision_was_measured_on_this_gpu(deployment: Path) -> None:
    measured = PrecisionErrors.load(deployment / PRECISION)
    assert measured.machine == torch.cuda.get_device_name()
    assert set(measured.errors) == {"bf16", "fp8"}
    for small, large in zip(measured.errors["bf16"], measured.errors["fp8"], strict=True):
        assert 0 < small < large < 0.5


@pytest.mark.parametrize("precision", [None, "fp32", "fp8"])
def test_the_runtime_is_the_default(deployment: Path, precision: str | None) -> None:
    with Session.open(deployment, options=EngineOptions(precision)) as session:  # type: ignore[arg-type]
        assert session.backend.describe().startswith(f"torch (CUDA runtime in {precision or 'bf16'} on ")
        one, other = (session(PROMPTS[0], generator=1).images[0] for _ in range(2))
        assert np.array_equal(one.pixels, other.pixels)


def test_in_fp32_it_draws_what_the_modules_draw(deployment: Path) -> None:
    with (
        Session.open(deployment, options=EngineOptions("fp32")) as own,
        Session.open(deployment, options=EngineOptions(reference=True)) as modules,
    ):
        assert modules.backend.describe().startswith("torch (own modules in fp32 on ")
        for dense in (True, False):
            pair = (one(PROMPTS[1], generator=2, dense=dense).images[0] for one in (own, modules))
            assert equal_bits(*pair) >= 0.999


def test_a_second_process_compiles_no_kernel(deployment: Path, weights: Path, tmp_path: Path) -> None:
    """Nor does it write to the deployment."""
    before = sorted(deployment.rglob("*"))
    for name, folder in (("with", deployment), ("without", _without_kernels(deployment, tmp_path))):
        arguments = ["run", folder, PROMPTS[0], "-o", tmp_path / f"{name}.png"]
        printed = _in_another_process(weights, arguments, TRITON_CACHE_DIR=str(tmp_path / name))
        assert "compiled anew" not in printed
    assert not list((tmp_path / "with").rglob("*.cubin"))
    assert list((tmp_path / "without").rglob("*.cubin"))
    assert (tmp_path / "with.png").read_bytes() == (tmp_path / "without.png").read_bytes()
    assert sorted(deployment.rglob("*")) == before


def test_batches_need_no_other_kernels(deployment: Path, weights: Path, tmp_path: Path) -> None:
    _in_another_process(weights, [deployment, PROMPTS[0]], BATCHES, TRITON_CACHE_DIR=str(tmp_path))
    assert not list(tmp_path.rglob("*.cubin"))


def _without_kernels(deployment: Path, folder: Path) -> Path:
    """A deployment as it is where nothing was compiled."""
    copied = folder / "bare"
    shutil.copytree(deployment, copied, ignore=shutil.ignore_patterns("kernels"))
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"] = {name: sha for name, sha in manifest["files"].items() if not name.startswith("kernels/")}
    (copied / "manifest.json").write_text(json.dumps(manifest))
    return copied


def test_what_does_not_fit_is_one_line(
    deployment: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(runtime, "available_bytes", lambda device: 2**20)
    arguments = ["run", str(deployment), PROMPTS[0], "-o", str(tmp_path / "x.png"), "--low-vram"]
    assert run(group, "toprovar", arguments) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: nano in bf16 needs ")
    assert "overhead 1.00 GiB" in line
    assert line.endswith(" GiB free; free the GPU, or try compiling for a lower --resolution")


def test_a_batch_that_does_not_fit_says_so_and_leaves_the_session(
    deployment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session.open(deployment) as session:
        before = session(PROMPTS[0]).images[0]
        with monkeypatch.context() as patch:
            patch.setattr(runtime, "available_bytes", lambda device: 0)
            with pytest.raises(BackendError, match=r"a batch of 2 needs .* for cache and .* has 0.00 GiB"):
                session(list(PROMPTS[:2]), batch_size=2)
        assert np.array_equal(session(PROMPTS[0]).images[0].pixels, before.pixels)


def test_memory_that_runs_out_all_the_same_is_one_line(
    deployment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """While the weights are loaded, where the estimate was too small."""
    monkeypatch.setattr(runtime.Weights, "load", lambda *_: torch.empty(1 << 50, device="cuda"))
    assert run(group, "toprovar", ["run", str(deployment), PROMPTS[0], "-o", str(tmp_path / "x.png")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: the GPU is out of memory (")
    assert "--low-vram or --precision fp8" in line


def test_a_command_refuses_what_was_compiled_for_another_gpu(
    deployment: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(deployment, tmp_path / "made")
    manifest = tmp_path / "made" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"gpu": "NVIDIA H900"}))
    assert run(group, "toprovar", ["run", str(tmp_path / "made"), PROMPTS[0], "-o", str(tmp_path / "x.png")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    found = torch.cuda.get_device_name()
    assert line.startswith(f"error: this deployment was compiled for NVIDIA H900; this machine has {found}; compile ")


def test_a_command_is_refused_while_its_session_generates(
    deployment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    codes: list[int] = []
    with Session.open(deployment) as session:
        alone = session(PROMPTS[1], generator=1).images[0]
        monkeypatch.setattr(Session, "open", lambda *_, **__: contextlib.nullcontext(session))
        arguments = ["run", str(deployment), PROMPTS[0], "-o", str(tmp_path / "x.png")]
        made, _ = generate_beside(session, PROMPTS[1], lambda: codes.append(run(group, "toprovar", arguments)), 1)
        assert np.array_equal(made.pixels, alone.pixels)
        assert codes == [1]
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: a generation is running in another thread, and a session runs one at a time; ")
        assert run(group, "toprovar", arguments) == 0
