"""What is trained is what runs: teacher forcing over all scales equals the steps of a generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toprovar.models.backbone import Condition
from toprovar.models.bsq_vae import MultiScaleCodes, multiscale_quantize
from toprovar.models.nano import train_transformer
from toprovar.models.nano.train_tokenizer import GRIDS
from toprovar.models.nano.train_transformer import CONFIG, Trainee
from toprovar.models.nano.vocabulary import encode
from toprovar.models.step import ScaleStep

CAPTIONS = ("a striped red circle above a small blue star", "three green rings on a gray background")
SCALES = 7
"""Scales that are compared: 521 of the 2,521 tokens."""


@pytest.fixture(scope="module")
def trainee() -> Trainee:
    torch.manual_seed(0)
    trainee = Trainee().eval().requires_grad_(False)
    # Away from the start, where biases are zero and the head is faint.
    for parameter in trainee.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.05)
    return trainee


@pytest.fixture(scope="module")
def codes() -> MultiScaleCodes:
    latent = torch.randn(1, CONFIG.code_bits, *GRIDS[-1], generator=torch.Generator().manual_seed(1))
    return multiscale_quantize(latent, GRIDS)


def block_forward_in_float32(trainee: Trainee) -> Callable[..., Tensor]:
    """The block of training as one masked attention, without the rounding to bfloat16 that training accepts."""
    mask = trainee.level[:, None] >= trainee.level[None, :]

    def forward(
        block: nn.Module, x: Tensor, modulation: Tensor, keys: Tensor, values: Tensor, bias: Tensor, *tables: Tensor
    ) -> Tensor:
        def attend(_: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)

        return block(x, 0, Condition(x, modulation, x, [keys], [values], bias), tables[0], attend)

    return forward


@pytest.mark.parametrize("dropped", [False, True], ids=["caption", "unconditional"])
def test_inference_equals_the_forward_of_training(
    dropped: bool, trainee: Trainee, codes: MultiScaleCodes, generate: Callable[..., Any]
) -> None:
    trainee.block = block_forward_in_float32(trainee)
    seen: list[Tensor] = []
    hook = trainee.transformer.head.register_forward_hook(lambda _module, _given, output: seen.append(output))
    latent = torch.randn(1, CONFIG.code_bits, *GRIDS[-1], generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([encode(CAPTIONS[0])])
    no_flips = torch.zeros(len(GRIDS), 1)
    try:
        trainee(latent, tokens, torch.tensor([dropped]), no_flips)
    finally:
        hook.remove()
    length = len(CAPTIONS[0].split())
    # Inference sees the words alone, training the padding too.
    features = trainee.transformer.cfg_uncond[None, :length] if dropped else trainee.text(tokens[:, :length])
    generation = generate(
        ScaleStep(trainee.transformer, False, (CONFIG.depth,)),
        features,
        torch.ones(1, length),
        grids=GRIDS,
        scales=SCALES,
        forced=[bits.flatten(1, 2) for bits in codes.bits],
    )
    trained = seen[0].unflatten(-1, (-1, 2)).split([height * width for height, width in GRIDS], dim=1)
    assert trained[0].std() > 0.05
    for scale, logits in enumerate(generation.logits):
        torch.testing.assert_close(logits, trained[scale], rtol=0, atol=2e-5, msg=lambda m, s=scale: f"scale {s}: {m}")


def test_the_fast_attention_of_training_has_the_same_mask(trainee: Trainee) -> None:
    torch.manual_seed(2)
    tokens = torch.tensor([encode(CAPTIONS[1])])
    mask = (tokens > 0).float()
    condition = trainee.transformer.encode_condition(trainee.text(tokens, mask), mask)
    text = condition.text_keys[0], condition.text_values[0], condition.text_bias
    block = trainee.transformer.layers[0]
    arguments = torch.randn(1, len(trainee.level), CONFIG.width), condition.modulation, *text
    tables = trainee.rope, trainee.early_mask
    exact = block_forward_in_float32(trainee)(block, *arguments, *tables)
    # Queries, keys and values of training are bfloat16; the rest stays in float32 here.
    hook = block.sa.proj.register_forward_pre_hook(lambda _module, given: (given[0].float(),))
    try:
        fast = train_transformer._block_forward(block, *arguments, *tables)
    finally:
        hook.remove()
    difference = (fast - exact).abs()
    assert difference.max() < 0.005 * (exact - arguments[0]).abs().max()
