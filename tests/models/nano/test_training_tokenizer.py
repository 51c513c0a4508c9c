"""The tokenizer's training: what it watches and what it leaves alone."""

from __future__ import annotations

import time
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
import torch

from toprovar.models.bsq_vae import BSQVAE
from toprovar.models.checkpoint import read_state_dict
from toprovar.models.nano import settings, train_tokenizer
from toprovar.models.nano.train_tokenizer import CONFIG, TokenizerSettings, _excess, _kurtosis, _watched
from toprovar.models.nano.training import Plan, Processes

WEIGHTS = settings.WEIGHTS / "vae.safetensors"


def test_one_hot_pixel_shows_in_the_kurtosis() -> None:
    even = torch.ones(2, 16, 16)
    torch.testing.assert_close(_kurtosis(even), torch.ones(2))
    even[1, 3, 4] = 1e6
    torch.testing.assert_close(_kurtosis(even), torch.tensor([1.0, 256.0]), rtol=1e-3, atol=0)


def test_only_droplets_cost() -> None:
    assert _excess(torch.tensor([[1.0, 9.9], [3.0, 10.0]])) == 0
    torch.testing.assert_close(_excess(torch.tensor([[1.0, 100.0], [1000.0, 1.0]])), 1.5 * torch.tensor(10.0).log())


def test_every_block_of_the_decoder_is_watched_and_the_image_unchanged() -> None:
    torch.manual_seed(0)
    vae = BSQVAE(CONFIG)
    latent = torch.randn(3, CONFIG.bits, 4, 4)
    expected = vae.decoder(latent)
    decode = _watched(vae.decoder)
    for _ in range(2):
        image, kurtosis = decode(latent)
        torch.testing.assert_close(image, expected)
        assert kurtosis.shape == (2 + 2 * len(CONFIG.decoder_channels), 3)
        assert (kurtosis >= 1).all()
    kurtosis.log().mean().backward()
    assert vae.decoder.up[0].block[1].conv2.conv.weight.grad.abs().max() > 0


def test_the_decoder_alone_leaves_the_codes_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tokenizer, "_HELD_OUT", 2)
    before = read_state_dict(WEIGHTS)
    plan = Plan(seconds=1e9, rate=1e-3, stop_at=time.time() + 4)
    options = TokenizerSettings(batch=1, pool=4, compiled=False, decoder_only=True)
    with ThreadPool(1) as workers:
        train_tokenizer.train_tokenizer(
            Processes(torch.device("cpu")), tmp_path, plan, options, workers, weights=WEIGHTS
        )
    after = read_state_dict(tmp_path / "vae.safetensors")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"decoder"}
