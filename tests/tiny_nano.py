"""A tiny nano with random weights, compiled once a test run, whatever the number of workers.

A folder's conftest imports the fixtures that its tests use.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.nano import settings
from toprovar.models.nano.text_encoder import WordEncoder
from toprovar.models.nano.vocabulary import WORDS
from toprovar.pipeline.compile import compile_model
from toprovar.pipeline.targets import Target
from toprovar.plan import DepthRule, SparsityPlan
from toprovar.runtime.backends.base import EngineOptions
from toprovar.runtime.session import GeneratedImage

LAYERS, WIDTH, HEADS, BITS, CHANNELS, WORDS_AT_MOST = 2, 64, 2, 16, 32, 24
PROMPTS = (
    "a red circle",
    "two large blue squares on a gray background",
    "a small striped green star and a yellow circle on a white background",
    "three red triangles",
)
TARGET = 0.7
REFERENCE = EngineOptions(reference=True)
"""The torch backend by the model's own modules, also where it has a GPU."""


@contextlib.contextmanager
def as_nano(weights: Path, cache: Path | None = None) -> Iterator[None]:
    """Within, the model `nano` is the one in the folder, and the user's cache is left alone."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as own:
        patch.setattr(settings, "WEIGHTS", weights)
        patch.setenv("XDG_CACHE_HOME", str(cache or own))
        yield


@contextlib.contextmanager
def once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that all workers share, to one of them at a time."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "tiny_nano"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().contiguous().clone() for name, value in model.state_dict().items()}


def make_weights(folder: Path) -> None:
    """Writes nano's three files."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = InfinityConfig(LAYERS, 1, WIDTH, HEADS, 4 * WIDTH, BITS, CHANNELS, WORDS_AT_MOST, 1, 15)
        model = Infinity(config)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.15)
        vae = BSQVAE(VAEConfig(BITS, (32, 32), (32, 32), 1, 1))
        text = WordEncoder(len(WORDS), CHANNELS, WORDS_AT_MOST, 1)
    for name, part in (("model", model), ("vae", vae), ("text_encoder", text)):
        save_file(_state(part), folder / f"{name}.safetensors")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads of several workers would wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like nano's."""
    with once(request, tmp_path_factory) as shared:
        folder = shared / "weights"
        if not folder.exists():
            partial = shared / "partial-weights"
            partial.mkdir(exist_ok=True)
            make_weights(partial)
            partial.rename(folder)
    return folder


@dataclass(frozen=True)
class Compiled:
    """A deployment, and what compiling it returned. Tests must not change the folder."""

    folder: Path
    summary: dict[str, Any]


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Compiled:
    """The tiny nano through the whole pipeline."""
    with once(request, tmp_path_factory) as shared:
        folder, summary = shared / "deployment", shared / "summary.json"
        if not summary.exists():
            prompts = shared / "prompts.txt"
            prompts.write_text("\n".join(PROMPTS))
            with as_nano(weights):
                options: dict[str, Any] = {
                    "resolution": "0.06M",
                    "target": Target(flops=TARGET),
                    "force": True,
                    "report": False,
                }
                made = compile_model("nano", folder, prompts=prompts, **options)
            summary.write_text(json.dumps(made))
    return Compiled(folder, json.loads(summary.read_text()))


def with_kept(
    plan: SparsityPlan, kept: Callable[[int, int], Sequence[int]], rule: DepthRule | None = None
) -> SparsityPlan:
    """The plan with other counts, of a scale's index and its tokens, and with guidance to the end."""
    scales = (
        dataclasses.replace(one, kept=tuple(kept(i, one.tokens)), unconditional="full")
        for i, one in enumerate(plan.scales)
    )
    return dataclasses.replace(plan, scales=tuple(scales), depth_rule=rule)


def equal_bits(one: GeneratedImage, other: GeneratedImage) -> float:
    """Share of equal bits over all scales."""
    pairs = zip(one.bits, other.bits, strict=True)
    return float(np.concatenate([(a == b).ravel() for a, b in pairs]).mean())


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """In dB, of images in [-1, 1]."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return float("inf") if error == 0 else 10 * np.log10(4 / error)
