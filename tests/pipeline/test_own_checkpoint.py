"""A checkpoint of one's own through the command line: weights, VAE beside them, T5, another shape of image."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from toprovar.cli import run
from toprovar.commands.compile import command as compile_command
from toprovar.deployment import Deployment
from toprovar.errors import BackendError
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.runtime.session import Session

from ..tiny_nano import REFERENCE, equal_bits
from ..tiny_t5 import CHANNELS, make_t5

PROMPT = "a photo of a red circle on a table"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: chunks of blocks, spatial patchify, the VAE nested under its key."""
    folder = tmp_path_factory.mktemp("checkpoint")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = InfinityConfig(4, 2, 64, 2, 256, 16, CHANNELS, 64, 1, 15)
        model = Infinity(config)
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.15)
        vae = BSQVAE(VAEConfig(4, (32, 32), (32, 32), 1, 1))
    torch.save(model.state_dict(), folder / "infinity_tiny.pth")
    torch.save({"vae": vae.state_dict()}, folder / "infinity_vae_d4.pth")
    (folder / "t5").mkdir()
    make_t5(folder / "t5")
    (folder / "prompts.txt").write_text(f"{PROMPT}\ntwo small blue stars above the green hills\n")
    return folder


def test_compile_and_run(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    target = tmp_path / "deployment"
    arguments = [str(checkpoint / "infinity_tiny.pth"), "-o", str(target)]
    arguments += ["--text-encoder", str(checkpoint / "t5"), "--prompts", str(checkpoint / "prompts.txt")]
    arguments += ["--aspect-ratio", "2:1", "--resolution", "0.06M", "--target-flops", "0.7", "--json"]
    arguments += ["--cfg-insertion-layer", "-1"]
    assert run(compile_command, "compile", arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["image"] == [44, 88]
    assert summary["worst_error"] < 1e-3
    assert summary["expected_flops"] == pytest.approx(0.7, abs=0.02)
    with Session.open(target) as built, Session.open(target, "torch", options=REFERENCE) as reference:
        for dense in (True, False):
            actual = built(PROMPT, generator=3, dense=dense).images[0]
            expected = reference(PROMPT, generator=3, dense=dense).images[0]
            assert equal_bits(actual, expected) >= 0.999
        assert isinstance(actual.image, Image.Image)
        assert actual.image.size == (88, 44)
        other = built("The quick brown fox jumps over the lazy dog.", generator=3).images[0]
        assert equal_bits(actual, other) < 0.999


def test_compiled_for_torch_it_loads_its_text_encoder_itself(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own, target = tmp_path / "own", tmp_path / "deployment"
    shutil.copytree(checkpoint, own)
    monkeypatch.chdir(own)
    arguments = ["infinity_tiny.pth", "-o", str(target), "--text-encoder", "t5", "--prompts", "prompts.txt"]
    arguments += ["--resolution", "0.06M", "--backend", "torch", "--policy", "dense", "--no-report"]
    assert run(compile_command, "compile", arguments) == 0
    monkeypatch.chdir(own)
    text = Deployment.open(target).manifest.text
    assert (text.kind, text.source) == ("t5", str(own / "t5"))
    with Session.open(target) as session:
        first, again = (session(PROMPT, generator=3).images[0] for _ in range(2))
        other = session("The quick brown fox jumps over the lazy dog.", generator=3).images[0]
        assert equal_bits(first, again) == 1
        assert equal_bits(first, other) < 0.999
    (own / "t5").rename(own / "elsewhere")
    with pytest.raises(BackendError, match=r"the torch backend loads the checkpoint itself, but .*t5"):
        Session.open(target)
