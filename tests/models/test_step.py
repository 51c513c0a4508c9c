"""One scale as a function of tensors: pruning, guidance, sampling, batches, patchify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from toprovar.models.bsq_vae import codes_from_bits
from toprovar.models.infinity import Infinity
from toprovar.models.step import ScaleStep, sample_bits
from toprovar.pruning import Pruning
from toprovar.runtime.noise import certainty

Generate = Callable[..., Any]
DEPTH = 4
PRUNING = Pruning("previous_scale", (1, 3))


def text(rows: int, seed: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 3, 12, generator=generator), torch.ones(rows, 3)


def identity(images: int) -> Callable[[int], Tensor]:
    return lambda tokens: torch.arange(tokens).expand(images, -1)


def shuffled(images: int) -> Callable[[int], Tensor]:
    generator = torch.Generator().manual_seed(3)
    return lambda tokens: torch.stack([torch.randperm(tokens, generator=generator) for _ in range(images)])


@pytest.fixture(scope="module")
def dense(backbone: Infinity) -> ScaleStep:
    return ScaleStep(backbone, False, (DEPTH,))


@pytest.fixture(scope="module")
def adaptive(backbone: Infinity) -> ScaleStep:
    return ScaleStep(backbone, False, (DEPTH,), PRUNING, adaptive=True)


def assert_same(one: Any, other: Any, atol: float = 3e-5) -> None:
    for first, second in zip(one.logits, other.logits, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=atol)
    for first, second in zip(one.scales, other.scales, strict=True):
        assert torch.equal(first["bits"], second["bits"])
        torch.testing.assert_close(first["next_summed"], second["next_summed"])


@pytest.mark.parametrize("order", [identity(1), shuffled(1)], ids=["identity", "shuffled"])
def test_with_everything_kept_the_adaptive_step_is_the_dense_one(
    order: Callable[[int], Tensor], dense: ScaleStep, adaptive: ScaleStep, generate: Generate
) -> None:
    expected = generate(dense, *text(2), guidance=3.0)
    actual = generate(adaptive, *text(2), guidance=3.0, order=order)
    assert_same(actual, expected)
    for one, other in zip(actual.scales, expected.scales, strict=True):
        assert one["present_key.0"].shape == other["present_key.0"].shape


def test_a_layer_that_keeps_nothing_is_left_out(make_backbone: Callable[..., Infinity], generate: Generate) -> None:
    whole, without = make_backbone(chunks=1), make_backbone(chunks=1)
    del without.blocks[2]
    adaptive = ScaleStep(whole, False, (DEPTH,), PRUNING, adaptive=True)
    actual = generate(adaptive, *text(1), order=identity(1), kept=lambda _, tokens: [tokens, tokens, 0, tokens])
    without.config = type(without.config)(**{**vars(without.config), "depth": 3})
    expected = generate(ScaleStep(without, False, (3,)), *text(1))
    assert_same(actual, expected)
    assert actual.scales[-1]["present_key.2"].shape[2] == 0


def test_tokens_outside_the_prefix_pass_through_and_are_not_cached(adaptive: ScaleStep, generate: Generate) -> None:
    def kept(_: int, tokens: int) -> list[int]:
        return [tokens, tokens - tokens // 2, 0, 1]

    result = generate(adaptive, *text(1), order=shuffled(1), kept=kept)
    cached = [sum(counts) for counts in zip(*(kept(0, tokens) for tokens in (1, 4, 12, 20)), strict=True)]
    assert [result.scales[-1][f"present_key.{layer}"].shape[2] for layer in range(DEPTH)] == cached
    assert all(torch.isfinite(logits).all() for logits in result.logits)
    assert result.scales[-1]["entropy"].shape == (1, 20)
    assert result.scales[1]["next_prior"].shape == (1, 12)


def test_images_of_one_batch_have_orders_of_their_own(adaptive: ScaleStep, generate: Generate) -> None:
    features, mask = text(4)
    orders = {tokens: shuffled(2)(tokens) for tokens in (1, 4, 12, 20)}
    half = lambda _, tokens: [tokens, (tokens + 1) // 2, tokens, (tokens + 1) // 2]  # noqa: E731
    options = {"guidance": 2.0, "kept": half}
    both = generate(adaptive, features, mask, images=2, seeds=(1, 2), order=orders.__getitem__, **options)
    for image in range(2):
        rows = [image, image + 2]
        alone = generate(
            adaptive,
            features[rows],
            mask[rows],
            seeds=(image + 1,),
            order=lambda tokens, image=image: orders[tokens][image : image + 1],
            **options,
        )
        for one, other in zip(alone.scales, both.scales, strict=True):
            assert torch.equal(one["bits"][0], other["bits"][image])
            torch.testing.assert_close(one["entropy"][0], other["entropy"][image], rtol=0, atol=1e-4)


def test_an_image_does_not_depend_on_its_batch(dense: ScaleStep, generate: Generate) -> None:
    features, mask = text(6)
    mask[1, 2:] = 0  # prompts of different lengths
    batch = generate(dense, features, mask, images=3, seeds=(7, 8, 9), guidance=3.0, temperature=0.5)
    for image in range(3):
        rows = [image, image + 3]
        alone = generate(dense, features[rows], mask[rows], seeds=(7 + image,), guidance=3.0, temperature=0.5)
        for one, other in zip(alone.scales, batch.scales, strict=True):
            assert torch.equal(one["bits"][0], other["bits"][image])
            torch.testing.assert_close(one["next_summed"][0], other["next_summed"][image])


@pytest.mark.parametrize("layers", [(DEPTH,), (1,), (0, 2)], ids=["logits", "layer", "layers"])
def test_guidance_of_one_is_none(layers: tuple[int, ...], backbone: Infinity, generate: Generate) -> None:
    features, mask = text(2)
    guided = generate(ScaleStep(backbone, False, layers), features, mask, guidance=1.0)
    assert_same(guided, generate(ScaleStep(backbone, False, layers), features[:1], mask[:1]))


def test_guidance_on_the_logits(dense: ScaleStep, generate: Generate) -> None:
    features, mask = text(2)
    grids = ((1, 1),)
    conditional, unconditional = (
        generate(dense, features[i : i + 1], mask[i : i + 1], grids=grids).logits[0] for i in range(2)
    )
    guided = generate(dense, features, mask, grids=grids, guidance=3.0, temperature=0.5).logits[0]
    torch.testing.assert_close(guided, (3 * conditional - 2 * unconditional) / 0.5, rtol=0, atol=1e-4)


def test_guidance_in_a_layer_reaches_both_rows(backbone: Infinity, generate: Generate) -> None:
    features, mask = text(2)
    seen: dict[tuple[int, float], Tensor] = {}

    class Recorder:
        guidance = 1.0

        def on_scale(self, scale: int) -> None:
            assert scale == 0

        def on_attention(self, first: int, entropy: Tensor) -> None:
            raise AssertionError("no layer observes")

        def on_hidden(self, first: int, hidden: Tensor) -> None:
            (seen[first, self.guidance],) = hidden

    recorder = Recorder()
    step = ScaleStep(backbone, False, (1,), observer=recorder)
    for guidance in (1.0, 4.0):
        recorder.guidance = guidance
        generate(step, features, mask, grids=((1, 1),), guidance=guidance)
    conditional, unconditional = seen[1, 1.0]
    for row in seen[1, 4.0]:
        torch.testing.assert_close(row, 4 * conditional - 3 * unconditional)
    torch.testing.assert_close(seen[0, 4.0], seen[0, 1.0])


def official_probability(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Probability of bit 1 after the official sampler's top-k and top-p over two classes."""
    logits = logits.clone()
    if top_k > 0:
        least = logits.topk(min(top_k, 2), dim=-1)[0].amin(dim=-1, keepdim=True)
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p > 0:
        ascending, index = logits.sort(dim=-1)
        removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        removed[..., -1:] = False
        logits = logits.masked_fill(removed.scatter(-1, index, removed), -torch.inf)
    exponential = (logits - logits.amax(-1, keepdim=True)).exp()
    return exponential[..., 1] / exponential.sum(-1)


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(900, 0.97), (0, 0.0), (2, 0.9), (1, 0.97), (0, 0.6), (0, 1.0), (900, 0.5)]
)
def test_bits_are_drawn_with_the_official_probability(top_k: int, top_p: float) -> None:
    difference = torch.linspace(-6, 6.1, 25)  # without ties
    logits = torch.stack([torch.full_like(difference, 0.7), difference + 0.7], dim=-1).view(1, 1, 25, 2)
    expected = official_probability(logits, top_k, top_p)[0, 0]
    # Quantiles of the logistic distribution: the share of ones is the probability up to 1 / their number.
    quantiles = 4000
    uniform = (torch.arange(quantiles, dtype=torch.float64) + 0.5) / quantiles
    noise = torch.logit(uniform).float().view(-1, 1, 1).expand(-1, 1, 25)
    drawn = sample_bits(logits.expand(quantiles, -1, -1, -1), noise, torch.tensor(certainty(top_k, top_p)))
    assert drawn.dtype == torch.uint8
    torch.testing.assert_close(drawn.float().mean((0, 1)), expected, rtol=0, atol=1.5 / quantiles)


def test_codes_are_added_and_shown_as_in_the_tokenizer(dense: ScaleStep, generate: Generate) -> None:
    grids = ((1, 1), (2, 3), (4, 6))
    result = generate(dense, *text(1), grids=grids)
    summed = torch.zeros(1, 8, 4, 6)
    for scale, (grid, outputs) in enumerate(zip(grids, result.scales, strict=True)):
        codes = codes_from_bits(outputs["bits"]).movedim(-1, 1).unflatten(2, grid)
        summed = summed + F.interpolate(codes, size=grids[-1], mode="bilinear")
        torch.testing.assert_close(outputs["next_summed"], summed)
        if scale + 1 < len(grids):
            shown = F.interpolate(summed, size=grids[scale + 1], mode="bilinear").flatten(2).transpose(1, 2)
            torch.testing.assert_close(outputs["next_x"], dense.backbone.word_embed(shown), rtol=0, atol=1e-5)


def test_patchify_shuffles_between_transformer_and_decoder(
    make_backbone: Callable[..., Infinity], generate: Generate
) -> None:
    backbone = make_backbone(code_bits=20)
    step = ScaleStep(backbone, True, (DEPTH,))
    grids = ((1, 1), (2, 3), (3, 4))
    result = generate(step, *text(2), grids=grids, guidance=2.0)
    summed = torch.zeros(1, 5, 6, 8)
    for scale, (grid, outputs) in enumerate(zip(grids, result.scales, strict=True)):
        assert outputs["bits"].shape == (1, grid[0] * grid[1], 20)
        patches = outputs["bits"].transpose(1, 2).unflatten(2, grid).float()
        codes = codes_from_bits(F.pixel_shuffle(patches, 2).movedim(1, -1)).movedim(-1, 1)
        summed = summed + F.interpolate(codes, size=(6, 8), mode="bilinear")
        torch.testing.assert_close(outputs["next_summed"], summed)
        if scale + 1 < len(grids):
            height, width = grids[scale + 1]
            shown = F.interpolate(summed, size=(2 * height, 2 * width), mode="bilinear")
            tokens = F.pixel_unshuffle(shown, 2).flatten(2).transpose(1, 2)
            torch.testing.assert_close(outputs["next_x"][0], backbone.word_embed(tokens)[0], rtol=0, atol=1e-5)
            assert outputs["next_x"].shape[0] == 2


def test_the_logits_that_are_handed_on_are_the_guided_ones(backbone: Infinity, generate: Generate) -> None:
    step = ScaleStep(backbone, False, (DEPTH,), Pruning("chunk_change", restoration="anchor"), adaptive=True)
    grids = ((1, 1), (2, 3), (4, 6))
    result = generate(step, *text(2), grids=grids, guidance=3.0, temperature=0.5, order=identity(1))
    for scale in (0, 1):
        logits = result.logits[scale].flatten(2).transpose(1, 2).unflatten(2, grids[scale])
        expected = F.interpolate(logits, size=grids[scale + 1], mode="bilinear").flatten(2).transpose(1, 2)
        carried = result.scales[scale]["next_carried_logits"].flatten(2)
        torch.testing.assert_close(carried, expected, rtol=0, atol=1e-4)
