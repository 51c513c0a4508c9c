"""Compiling for the torch backend: no graphs, nothing of ONNX, and what reduced precision does."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from toprovar.cli import group, run
from toprovar.deployment import Deployment
from toprovar.errors import BackendError, UsageError
from toprovar.evaluation.report.material import gather
from toprovar.evaluation.report.sections import precision as section
from toprovar.models.loader import load_model
from toprovar.pipeline.builds.torch import TorchBuild
from toprovar.pipeline.precision import ForcedGeneration, logits_along, relative_errors
from toprovar.pipeline.subject import Subject
from toprovar.precision import PRECISION, PrecisionErrors
from toprovar.progress import Stages
from toprovar.runtime.backends.base import EngineOptions
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.cuda.faults import DeviceFault
from toprovar.runtime.cuda.memory import DoesNotFit
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.cuda.weights import Linear, Weights
from toprovar.runtime.session import Session
from toprovar.verification import verify

from ..tiny_nano import PROMPTS, TARGET, Compiled, as_nano, equal_bits

SCRIPT = """
import sys
from pathlib import Path

for name in ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "polygraphy", "jinja2", "matplotlib"):
    sys.modules[name] = None  # as if it were not installed

from toprovar.cli import group, run
from toprovar.models.nano import settings

settings.WEIGHTS = Path(sys.argv[1])
sys.exit(run(group, "toprovar", sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def built(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny nano compiled for torch in fp8, where nothing of ONNX is installed."""
    folder = tmp_path_factory.mktemp("torch")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    arguments = ["compile", "nano", "-o", "made", "--backend", "torch", "--precision", "fp8", "--no-report"]
    arguments += ["--prompts", "prompts.txt", "--resolution", "0.06M", "--target-flops", str(TARGET)]
    done = python(folder, weights, *arguments)
    assert done.returncode == 0, done.stderr
    assert "nothing, since the model's own modules run" in done.stdout
    return folder / "made"


def python(folder: Path, weights: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", textwrap.dedent(SCRIPT), str(weights), *arguments]
    environment = {"XDG_CACHE_HOME": str(folder / "cache"), "PATH": "", "OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_it_holds_tables_and_plan_but_no_graph(built: Path) -> None:
    deployment = Deployment.open(built)
    manifest = deployment.manifest
    assert (manifest.backend, manifest.precision) == ("torch", "fp8")
    assert not any(name.endswith(".onnx") for name in manifest.files)
    assert {"plan.json", "graphs/constants.safetensors", PRECISION} <= set(manifest.files)
    assert "onnx" not in manifest.versions
    if not torch.cuda.is_available():
        assert manifest.gpu is None


def test_it_draws_what_the_graphs_draw(built: Path, compiled: Compiled, weights: Path) -> None:
    with as_nano(weights), Session.open(built) as own, Session.open(compiled.folder) as graphs:
        assert own.plan == graphs.plan
        for dense in (False, True):
            one, other = (each(PROMPTS[1], generator=3, dense=dense).images[0] for each in (own, graphs))
            assert equal_bits(one, other) >= 0.999


def test_it_runs_without_onnx_and_says_what_falls_back(built: Path, weights: Path, tmp_path: Path) -> None:
    done = python(tmp_path, weights, "run", str(built), PROMPTS[0], "-o", "circle.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "circle.png").exists()
    if not torch.cuda.is_available():
        fallen = "PyTorch sees no NVIDIA GPU, so nothing runs in fp8: running the model's own modules in fp32"
        assert done.stderr.count(fallen) == 1


def test_onnxruntime_has_nothing_to_run(built: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["run", str(built), PROMPTS[0], "--backend", "onnxruntime", "-o", str(tmp_path / "x.png")]
    assert run(group, "toprovar", arguments) == 1
    assert capsys.readouterr().err.strip() == (
        "error: this deployment holds no ONNX graphs: it was compiled for torch; compile the model for onnxruntime, or "
        "leave out --backend"
    )


def test_errors_of_fp8_are_measured_and_shown(built: Path) -> None:
    measured = PrecisionErrors.load(built / PRECISION)
    assert list(measured.errors) == ["fp8"]
    scales = Deployment.open(built).plan.scales
    assert len(measured.errors["fp8"]) == len(scales)
    assert all(1e-3 < error < 0.3 for error in measured.errors["fp8"])
    material = gather(built, None, 1, lambda stage, done, total: None)
    (table,) = section.make(material).tables
    assert table.header == ("scale", "fp8")
    assert table.rows[0] == ("scale 0, 1 x 1", f"{measured.errors['fp8'][0]:.2%}")
    assert "2 prompts" in table.caption


def test_errors_that_are_not_there(compiled: Compiled) -> None:
    made = section.make(gather(compiled.folder, None, 1, lambda stage, done, total: None))
    assert made.tables == ()
    assert "nothing was measured in reduced precision" in made.notes[0]


def backend(deployment: Deployment, weights: Path, options: RuntimeOptions | None) -> TorchBackend:
    from toprovar.constants import load_constants

    with as_nano(weights):
        loaded = load_model("nano")
    grids = [(scale.height, scale.width) for scale in deployment.plan.scales]
    constants = load_constants(deployment.folder / "graphs")
    pruning = deployment.plan.pruning
    return TorchBackend(deployment.manifest.model, grids, constants, loaded, pruning, runtime=options)


def test_the_runtime_shows_the_logits_of_a_forced_generation(built: Path, weights: Path) -> None:
    """In fp32 and plain torch they are the modules' own, dense and sparse; in bf16 and fp8 they are not."""
    deployment = Deployment.open(built)
    with as_nano(weights), Session.open(built, options=EngineOptions(reference=True)) as session:
        generation = ForcedGeneration.draw(session, PROMPTS[1], 3)
        eager = backend(deployment, weights, None)
        exact = logits_along(eager, session, generation)
        errors: dict[str, tuple[float, ...]] = {}
        for precision in ("fp32", "bf16", "fp8"):
            options: Any = RuntimeOptions(precision, captured=False, fused=False, shows_logits=True)
            with backend(deployment, weights, options) as own:
                errors[precision] = relative_errors([logits_along(own, session, generation)], [exact])
                if precision == "fp32":
                    sparse = [logits_along(one, session, generation, deployment.plan) for one in (own, eager)]
    assert max(errors["fp32"]) < 1e-5
    assert all(1e-5 < small < large for small, large in zip(errors["bf16"], errors["fp8"], strict=True))
    for scale, first, second in zip(deployment.plan.scales, *sparse, strict=True):
        assert not any(scale.kept) or ((first > 0) == (second > 0)).mean() >= 0.999
    changed = [np.abs(a - b).max() for a, b in zip(sparse[0], exact, strict=True)]
    assert max(changed) > 1e-2


def test_logits_are_shown_only_where_asked_for(built: Path, weights: Path) -> None:
    deployment = Deployment.open(built)
    with as_nano(weights), Session.open(built, options=EngineOptions(reference=True)) as session:
        generation = ForcedGeneration.draw(session, PROMPTS[1], 3)
        with (
            backend(deployment, weights, RuntimeOptions.plain()) as own,
            pytest.raises(BackendError, match="was not asked to show logits"),
        ):
            logits_along(own, session, generation)


@pytest.fixture
def build(weights: Path, tmp_path: Path) -> Iterator[TorchBuild]:
    """As on a GPU, in plain torch."""
    with as_nano(weights), Stages() as stages:
        subject = Subject.open("nano", resolution="0.06M")
        made = TorchBuild(subject, tmp_path, stages, None)
        made._options, made._device = RuntimeOptions.plain(), torch.device("cpu")
        yield made


def test_a_build_compares_every_scale(build: TorchBuild, built: Path, tmp_path: Path) -> None:
    plan = Deployment.open(built).plan
    checks = build.verify(plan, tmp_path, PROMPTS[:1])
    assert [(one.graph, one.scale) for one in checks] == [*(("dense", i) for i in range(7)), ("sparse", None)]
    assert all(one.passed and one.equal_bits is not None and one.equal_bits >= 0.999 for one in checks)
    assert 0 < max(one.worst for one in checks) < 1e-4


def test_a_build_finds_what_is_wrong(
    build: TorchBuild, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Weights.load

    def rounded(*arguments: Any) -> Weights:
        weights = load(*arguments)
        return dataclasses.replace(weights, head=Linear(weights.head.weight.bfloat16().float(), weights.head.bias))

    monkeypatch.setattr(Weights, "load", rounded)
    checks = build.verify(Deployment.open(built).plan, tmp_path, PROMPTS[:1])
    assert not all(one.passed for one in checks)
    assert any("logits wrong by" in line for one in checks for line in one.failures)


@pytest.mark.parametrize(
    "error", [DoesNotFit("nano needs more", None), DeviceFault("the GPU is out of memory", "free it", recoverable=True)]
)
def test_what_needs_more_memory_than_there_is_is_left_out(
    error: BackendError,
    build: TorchBuild,
    built: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(TorchBuild, "_backend", refuse)
    plan = Deployment.open(built).plan
    assert build.verify(plan, tmp_path, PROMPTS[:1]) == []
    build._measure(plan, tmp_path, PROMPTS[:1])
    assert not (tmp_path / PRECISION).exists()
    said = " ".join(capsys.readouterr().err.split())
    for what in ("verified", "measured"):
        assert f"the runtime is not {what}, since the model in fp32 does not fit: {error.message}" in said


def test_a_gpu_that_failed_ends_the_build(build: TorchBuild, built: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceFault), build._as_far_as_memory_goes("verified"):
        raise DeviceFault("the GPU failed", "start a new process", recoverable=False)


def test_verification_says_what_ran(built: Path, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with as_nano(weights):
        summary = verify(built, 1)
    assert summary["equal_bits"] >= 0.999
    assert summary["engines"][1].startswith("torch (own modules in fp32 on ")
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{summary['engines'][0]} against {summary['engines'][1]}, same noise" in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "fp8"], "takes no --precision"),
        (["--low-vram"], "takes no --low-vram"),
        (["--low-vram", "--precision", "bf16"], "takes no --precision and no --low-vram"),
    ],
)
def test_options_that_an_engine_does_not_take(
    options: list[str], said: str, compiled: Compiled, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = str(tmp_path / "x.png")
    assert run(group, "toprovar", ["run", str(compiled.folder), PROMPTS[0], "-o", picture, *options]) == 2
    assert f"error: the backend onnxruntime {said}; leave it out" in capsys.readouterr().err


def test_every_option_has_its_name() -> None:
    assert EngineOptions().asked() == ()
    assert EngineOptions("bf16", low_vram=True, reference=True).asked() == ("precision", "low_vram", "reference")
    with pytest.raises(UsageError, match="takes no --precision"):
        from toprovar.runtime.backends.onnxruntime import OnnxRuntimeBackend

        OnnxRuntimeBackend.check_options(EngineOptions("bf16"))


def test_a_manifest_keeps_its_precision(built: Path) -> None:
    manifest = json.loads((built / "manifest.json").read_text())
    assert manifest["precision"] == "fp8"
    opened = Deployment.open(built).manifest
    assert dataclasses.replace(opened, precision=None).precision is None
