"""The transformer's architecture as its tensors tell it, and its parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from toprovar.models.infinity import Infinity, InfinityConfig

CONFIG = InfinityConfig(
    depth=4,
    chunks=2,
    width=32,
    heads=2,
    hidden=48,
    code_bits=8,
    text_channels=12,
    text_max_tokens=6,
    pool_heads=4,
    levels=15,
)


def shapes(model: Infinity) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


@pytest.mark.parametrize(
    "changes",
    [{}, {"chunks": 4}, {"chunks": 1}, {"depth": 6, "chunks": 3}, {"heads": 4, "pool_heads": 1, "code_bits": 56}],
    ids=str,
)
def test_the_tensors_tell_the_architecture(changes: dict[str, int]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    with torch.device("meta"):
        model = Infinity(config)
    assert InfinityConfig.from_shapes(shapes(model)) == config
    assert len(model.layers) == config.depth


def test_keys_are_the_official_ones() -> None:
    with torch.device("meta"):
        chunked, plain = Infinity(CONFIG), Infinity(dataclasses.replace(CONFIG, chunks=1))
    assert "block_chunks.1.module.1.sa.mat_qkv.weight" in shapes(chunked)
    assert "blocks.3.sa.mat_qkv.weight" in shapes(plain)


def test_both_layouts_compute_the_same(make_backbone: Callable[..., Infinity]) -> None:
    chunked, plain = make_backbone(), make_backbone(chunks=1)
    renamed = {}
    for key, value in chunked.state_dict().items():
        parts = key.split(".")
        if parts[0] == "block_chunks":
            parts = ["blocks", str(2 * int(parts[1]) + int(parts[3])), *parts[4:]]
        renamed[".".join(parts)] = value
    plain.load_state_dict(renamed)
    features, mask = torch.randn(1, 3, 12), torch.ones(1, 3)
    for one, other in zip(chunked.layers, plain.layers, strict=True):
        assert torch.equal(one.ada_gss, other.ada_gss)
    first, second = (model.encode_condition(features, mask) for model in (chunked, plain))
    assert torch.equal(first.text_keys[3], second.text_keys[3])


def test_a_missing_tensor_is_named() -> None:
    with torch.device("meta"):
        given = shapes(Infinity(CONFIG))
    del given["cfg_uncond"]
    with pytest.raises(KeyError, match="cfg_uncond"):
        InfinityConfig.from_shapes(given)


def test_padding_does_not_change_the_condition(backbone: Infinity) -> None:
    text = torch.randn(1, 3, 12)
    padded = F.pad(text, (0, 0, 0, 2), value=7.0)
    alone = backbone.encode_condition(text, torch.ones(1, 3))
    beside = backbone.encode_condition(padded, torch.tensor([[1.0, 1, 1, 0, 0]]))
    torch.testing.assert_close(beside.start, alone.start)
    torch.testing.assert_close(beside.modulation, alone.modulation)
    torch.testing.assert_close(beside.text_keys[0][:, :, :3], alone.text_keys[0])
    assert (beside.text_bias[..., 3:] < -1e30).all()


def test_queries_are_clamped_and_softmax_scale_is_one(backbone: Infinity) -> None:
    seen = {}

    def attend(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        seen[layer] = query, key
        return value

    attention = backbone.layers[0].sa
    before = attention.scale_mul_1H11.clone()
    attention.scale_mul_1H11.copy_(torch.tensor([1.0, 9.0]).view(1, 2, 1, 1))
    rope = torch.stack([torch.ones(5, 8), torch.zeros(5, 8)])
    attention(torch.randn(1, 5, 32), rope, 0, attend)
    attention.scale_mul_1H11.copy_(before)
    query, key = seen[0]
    torch.testing.assert_close(key.norm(dim=-1), torch.ones(1, 2, 5))
    torch.testing.assert_close(query.norm(dim=-1)[0, :, 0], torch.tensor([math.e, 100.0]))
