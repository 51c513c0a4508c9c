"""Who runs on the runtime, and what everybody else is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from toprovar.console import remark_once
from toprovar.runtime.backends.base import EngineOptions
from toprovar.runtime.cuda.support import choose_runtime, fp8_obstacle, obstacles

from .small_model import make_model

CPU, GPU = torch.device("cpu"), torch.device("cuda")
MODEL = make_model()


@pytest.fixture(autouse=True)
def _anew() -> None:
    remark_once.cache_clear()


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Of a GPU that need not be here; tests may change it."""
    own = {"now": (9, 0)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: own["now"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a GPU")
    return own


@pytest.mark.usefixtures("capability")
@pytest.mark.parametrize(
    ("asked", "recorded", "precision"),
    [
        (EngineOptions(), None, "bf16"),
        (EngineOptions(), "fp8", "fp8"),
        (EngineOptions("fp32"), "fp8", "fp32"),
        (EngineOptions(low_vram=True), None, "bf16"),
    ],
)
def test_the_runtime_is_the_default_on_a_gpu(
    asked: EngineOptions, recorded: Any, precision: str, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = choose_runtime(MODEL.backbone, MODEL.vae, GPU, asked, recorded)
    assert chosen is not None
    assert (chosen.precision, chosen.low_vram) == (precision, asked.low_vram)
    assert capsys.readouterr().err == ""


def test_a_reference_runs_the_models_own_modules_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    for device in (CPU, GPU):
        assert choose_runtime(MODEL.backbone, MODEL.vae, device, EngineOptions(reference=True), "fp8") is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("asked", "recorded", "said"),
    [
        (EngineOptions(), None, ""),
        (EngineOptions("fp32"), "bf16", ""),
        (EngineOptions(), "fp32", ""),
        (EngineOptions(), "bf16", "nothing runs in bf16"),
        (EngineOptions("fp8"), None, "nothing runs in fp8"),
        (EngineOptions(low_vram=True), None, "nothing runs with --low-vram"),
    ],
)
def test_without_a_gpu(asked: EngineOptions, recorded: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert choose_runtime(MODEL.backbone, MODEL.vae, CPU, asked, recorded) is None
    shown = capsys.readouterr().err
    assert shown.count("PyTorch sees no NVIDIA GPU") == bool(said)
    assert said in shown


def test_what_the_runtime_cannot_run(
    capability: dict[str, tuple[int, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    other: Any = SimpleNamespace(config=MODEL.backbone.config)
    assert obstacles(MODEL.backbone, MODEL.vae, GPU) == []
    assert obstacles(other, MODEL.vae, GPU) == ["its family offers no tensors to kernels of ours"]
    assert obstacles(make_model(width=48).backbone, MODEL.vae, GPU) == [
        "heads of 24 channels, it takes 32, 64, 96, 128"
    ]
    capability["now"] = (7, 5)
    assert choose_runtime(MODEL.backbone, MODEL.vae, GPU, EngineOptions(), None) is None
    assert capsys.readouterr().err.strip() == (
        "the CUDA runtime cannot run this model (the GPU has no bf16): running its own modules in fp32"
    )


def test_what_cannot_be_in_fp8(capability: dict[str, tuple[int, int]]) -> None:
    assert fp8_obstacle(64, 128, GPU) is None
    assert "72 and 144 channels wide in fp8" in str(fp8_obstacle(72, 144, CPU))
    capability["now"] = (8, 6)
    assert fp8_obstacle(64, 128, GPU) == "a GPU has no fp8 products; expected compute capability 8.9 or later"
    assert fp8_obstacle(64, 128, CPU) is None
