"""What the torch backend does around the runtime: other GPUs, the text encoder, the clock."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from toprovar.errors import BackendError
from toprovar.pruning import Pruning
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.clock import Clock, Moment
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.cuda.weights import Weights

from .small_model import CHANNELS, features, make_model, make_plan, make_session


@pytest.mark.parametrize(("gpu", "refused"), [("NVIDIA H200", True), (None, False)])
def test_a_deployment_for_another_gpu(gpu: str | None, refused: bool) -> None:
    manifest = SimpleNamespace(
        gpu=gpu,
        backend="torch",
        model=SimpleNamespace(source="/nowhere.safetensors", sha256=""),
        text=SimpleNamespace(source=None),
        files={},
    )
    deployment: Any = SimpleNamespace(manifest=manifest, folder=Path())
    expected = "was compiled for NVIDIA H200; this machine has" if refused else "no such checkpoint"
    with pytest.raises(BackendError, match=expected) as caught:
        TorchBackend.open(deployment)
    assert not refused or "compile the model again on this machine" in str(caught.value.hint)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(9, CHANNELS), requires_grad=False)
        self.moves: list[str] = []

    def to(self, *arguments: Any, **options: Any) -> Encoder:
        self.moves.append(str(arguments[0]))
        return super().to(*arguments, **options)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.table[token_ids]


@pytest.mark.parametrize("low_vram", [False, True])
def test_a_text_encoder_leaves_the_device_where_memory_is_dear(low_vram: bool) -> None:
    encoder = Encoder()
    text: Any = SimpleNamespace(module=encoder, kind="words", channels=CHANNELS)
    loaded = dataclasses.replace(make_model(), text=text)
    plan = make_plan(loaded, Pruning(), lambda s, t: (t, t, t))
    options = dataclasses.replace(RuntimeOptions.plain(), low_vram=low_vram)
    with make_session(loaded, plan, options) as session:
        np.testing.assert_array_equal(session.backend.encode_text([2, 5]), encoder.table[[2, 5]].numpy())
    assert len(encoder.moves) == (2 if low_vram else 1)


def test_weights_of_the_right_type_are_not_copied() -> None:
    backbone = make_model().backbone
    weights = Weights.load(backbone.tensors(), torch.float32, torch.device("cpu"))
    assert weights.layers[0].qkv.weight.data_ptr() == backbone.layers[0].sa.mat_qkv.weight.data_ptr()
    assert weights.head.weight.data_ptr() == backbone.head.weight.data_ptr()


class Ticks(Moment):
    """A device that is read later than it is asked."""

    count = 0
    read = 0

    def __init__(self) -> None:
        Ticks.count += 1
        self.tick = Ticks.count

    def since(self, earlier: Moment) -> float:
        assert isinstance(earlier, Ticks)
        Ticks.read += 1
        return float(self.tick - earlier.tick)


def test_a_clock_reads_moments_once_the_work_is_done() -> None:
    clock = Clock(2, 0.0, Ticks)
    for scale in (0, 0, 1):
        with clock.scale(scale), clock.analysis():
            pass
    assert Ticks.read == 0
    clock.settle()
    clock.settle()
    assert clock.scale_seconds == (2.0, 1.0)
    assert Ticks.read == 3
    assert 0 <= clock.analysis_seconds < 1


def test_scales_are_timed_by_the_backends_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = make_model()
    plan = make_plan(loaded, Pruning(), lambda s, t: (t, t, t))
    with make_session(loaded, plan, RuntimeOptions.plain()) as session:
        monkeypatch.setattr(session.backend, "moment", Ticks)
        made = session([features(), features(seed=1)])
    assert made.scale_seconds == (2.0,) * len(plan.scales)
