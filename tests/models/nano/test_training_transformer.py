"""The transformer's training on a network that a CPU trains in seconds."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
import torch
from torch import Tensor

from toprovar.models.bsq_vae import multiscale_quantize
from toprovar.models.checkpoint import read_state_dict
from toprovar.models.infinity import InfinityConfig
from toprovar.models.nano import train_transformer
from toprovar.models.nano.sampling import EXAMPLES, Sampler, Setting
from toprovar.models.nano.train_transformer import Trainee, TransformerSettings, _read_weights, make_optimizers
from toprovar.models.nano.training import Loop, Moment, Plan, Processes, save_half
from toprovar.models.nano.vocabulary import MAX_WORDS, encode
from toprovar.models.text import WordText

GRIDS = ((1, 1), (2, 2), (4, 4))
MERGED = 2
CONFIG = InfinityConfig(
    depth=2,
    chunks=1,
    width=64,
    heads=2,
    hidden=128,
    code_bits=8,
    text_channels=32,
    text_max_tokens=MAX_WORDS,
    pool_heads=1,
    levels=15,
)
CPU = torch.device("cpu")


@pytest.fixture
def trainee() -> Trainee:
    torch.manual_seed(0)
    return Trainee(CONFIG, GRIDS, MERGED)


@pytest.fixture
def latents() -> Tensor:
    return torch.randn(4, CONFIG.code_bits, *GRIDS[-1], generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tokens() -> Tensor:
    return torch.tensor([encode(caption) for caption in EXAMPLES[:4]])


def codes(trainee: Trainee, latents: Tensor, tokens: Tensor, **options: object) -> tuple[Tensor, Tensor]:
    """Loss and right bits of one pass without flips and with every caption."""
    flips = torch.zeros(len(GRIDS), len(tokens))
    with torch.autocast("cpu", torch.bfloat16):
        return trainee(latents, tokens, tokens[:, 0] < 0, flips, **options)


def test_training_and_generation_agree(trainee: Trainee, latents: Tensor, tokens: Tensor) -> None:
    """Four scenes learnt by heart come out of the steps of a generation."""
    plan = Plan(seconds=1e9, rate=4e-3, warm_up=0.0)
    loop = Loop(trainee, make_optimizers(trainee, 1.0), Processes(CPU), plan, Path("unused"), seed=2)

    def losses(moment: Moment) -> tuple[Tensor, Callable[[], str]]:
        index = torch.arange(4).repeat(2)
        flips = torch.rand(len(GRIDS), len(index), generator=moment.generator) * 0.1
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = trainee(latents[index], tokens[index], index < 0, flips, generator=moment.generator)
        return loss, str

    for _ in range(80):
        loss, _ = loop._take_step(losses, progress=0.0)
    assert loss < 0.1
    shown = loop.average.model
    summed = Sampler(shown.transformer, shown.text, None, GRIDS)(EXAMPLES[:4], Setting(1.0, temperature=0.1))
    expected = multiscale_quantize(latents, GRIDS).summed
    assert ((summed - expected).abs() < 1e-4).float().mean() > 0.99


def test_a_coarse_step_is_the_first_scales_of_a_full_one(trainee: Trainee, latents: Tensor, tokens: Tensor) -> None:
    with torch.no_grad():
        for parameter in trainee.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    seen: list[Tensor] = []
    trainee.transformer.head.register_forward_hook(lambda _module, _given, output: seen.append(output))
    _, right = codes(trainee, latents, tokens)
    _, coarse = codes(trainee, latents, tokens, scales=MERGED)
    torch.testing.assert_close(coarse, right[:MERGED], rtol=0, atol=0.02)
    torch.testing.assert_close(seen[1], seen[0][:, :5], rtol=0.05, atol=0.05)
    assert seen[1].shape[1] == 5


def test_importance_moves_the_loss_within_a_scale(trainee: Trainee, latents: Tensor, tokens: Tensor) -> None:
    plain, _ = codes(trainee, latents, tokens)
    even, _ = codes(trainee, latents, tokens, importance=torch.ones(4, 21))
    torch.testing.assert_close(plain, even)
    only = torch.zeros(4, 21)
    only[0] = 4
    one, _ = codes(trainee, latents, tokens, importance=only)
    alone, _ = codes(trainee, latents[:1], tokens[:1])
    torch.testing.assert_close(one, alone, rtol=1e-2, atol=0)


def test_scales_count_as_the_roots_of_their_sides(trainee: Trainee) -> None:
    weight = torch.stack([part.sum() for part in trainee.token_weight.split([1, 4, 16])])
    torch.testing.assert_close(weight, torch.tensor([1.0, 2**0.5, 2.0]))


def test_every_parameter_has_one_optimizer(trainee: Trainee) -> None:
    muon, adam = make_optimizers(trainee, 1.0)
    taken = [id(p) for optimizer in (muon, adam) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in trainee.parameters())
    names = {id(parameter): name for name, parameter in trainee.named_parameters()}
    outer = {names[id(p)].split(".")[-2] for p in adam.param_groups[0]["params"] if p.dim() == 2}
    assert {"head", "word_embed", "lvl_embed", "embedding"} <= outer
    assert "fc1" not in outer


def test_guidance_zero_forgets_the_caption(trainee: Trainee) -> None:
    sampler = Sampler(trainee.transformer.eval(), trainee.text, None, GRIDS)
    one = sampler(["a red star", "a blue ring"], Setting(0.0, 1.0), seed=5)
    other = sampler(["a pink cross", "a green circle"], Setting(0.0, 1.0), seed=5)
    torch.testing.assert_close(one, other)
    assert (one[0] != one[1]).any()
    guided = sampler(["a red star", "a blue ring"], Setting(3.0, 1.0), seed=5)
    assert (guided != one).any()


def test_weights_are_read_back_as_they_are_shipped(trainee: Trainee, tmp_path: Path) -> None:
    for shard_bytes in (10_000, 1 << 20):
        folder = tmp_path / str(shard_bytes)
        save_half(trainee.transformer.state_dict(), folder / "model.safetensors", shard_bytes)
        save_half(trainee.text.state_dict(), folder / "text_encoder.safetensors")
        torch.manual_seed(1)
        other = Trainee(CONFIG, GRIDS, MERGED)
        _read_weights(other, folder)
        for name, value in other.state_dict().items():
            torch.testing.assert_close(value, trainee.state_dict()[name], rtol=1e-3, atol=1e-3, msg=name)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole training on the small network and latents of noise, without pictures."""
    latents = torch.randn(8, CONFIG.code_bits, *GRIDS[-1])
    replaced = {
        "GRIDS": GRIDS,
        "Trainee": functools.partial(Trainee, CONFIG, GRIDS, MERGED),
        "read_tokenizer": lambda path, device: None,
        "_COARSE_SCALES": MERGED,
        "_encode_pool": lambda vae, pool: latents,
        "save_grid": lambda images, path, columns: path.write_text("picture"),
        "compare_settings": lambda sampler, prompts, tried, workers: {},
    }
    for name, value in replaced.items():
        monkeypatch.setattr(train_transformer, name, value)


@pytest.mark.usefixtures("small")
def test_a_run_writes_what_nano_loads_and_goes_on(tmp_path: Path) -> None:
    chosen = TransformerSettings(batch=2, pool=8, compiled=False)

    def train(**plan: float) -> bool:
        given = Plan(rate=1e-3, **plan)
        with ThreadPool(1) as workers:
            return train_transformer.train_transformer(
                Processes(CPU), tmp_path, tmp_path / "vae", given, chosen, workers, resume="stop_at" not in plan
            )

    assert not train(seconds=1e6, stop_at=time.time() + 0.5)
    first = json.loads((tmp_path / "state.json").read_text())
    shapes = {key: tuple(value.shape) for key, value in read_state_dict(tmp_path / "model.safetensors").items()}
    assert InfinityConfig.from_shapes(shapes) == CONFIG
    assert WordText(read_state_dict(tmp_path / "text_encoder.safetensors"), "test").channels == CONFIG.text_channels
    assert train(seconds=first["spent_seconds"] + 0.3)
    second = json.loads((tmp_path / "state.json").read_text())
    assert second["step"] > first["step"]
    assert second["calls"] == 2
    assert {path.name for path in tmp_path.glob("samples-*.png")} == {
        f"samples-{x['step']}.png" for x in (first, second)
    }
    assert not list(tmp_path.glob(".*"))
