"""The tokenizer's shapes and its residual quantisation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from toprovar.models.bsq_vae import BSQVAE, VAEConfig, codes_from_bits, multiscale_quantize

GRIDS = ((1, 1), (2, 3), (4, 6))


def shapes(vae: BSQVAE) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in vae.state_dict().items()}


@pytest.mark.parametrize(
    "config",
    [
        VAEConfig(8, (32, 64), (32, 64), 1, 1),
        VAEConfig(5, (32, 32, 64), (64, 32, 96), 2, 2),
        VAEConfig(14, (24, 48, 48, 96), (24, 48, 96, 96), 1, 3),
    ],
    ids=lambda config: f"stride{config.stride}",
)
def test_the_tensors_tell_the_architecture(config: VAEConfig) -> None:
    vae = BSQVAE(config)
    assert VAEConfig.from_shapes(shapes(vae)) == config
    image = torch.rand(1, 3, 2 * config.stride, 3 * config.stride) * 2 - 1
    latent = vae.encode(image)
    assert latent.shape == (1, config.bits, 2, 3)
    assert vae.decode(latent).shape == image.shape


def test_images_are_clamped(make_vae: Callable[..., BSQVAE]) -> None:
    vae = make_vae()
    vae.decoder.conv_out.conv.bias.copy_(torch.tensor([-9.0, 0.0, 9.0]))
    image = vae.decode(torch.randn(1, 8, 3, 3))
    assert torch.equal(image[:, 0], torch.full_like(image[:, 0], -1))
    assert torch.equal(image[:, 2], torch.ones_like(image[:, 2]))
    assert image[:, 1].unique().numel() > 1


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(KeyError, match=r"decoder\.conv_in"):
        VAEConfig.from_shapes({})


def test_codes_have_unit_length() -> None:
    codes = codes_from_bits(torch.randint(0, 2, (3, 4, 16)))
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(3, 4))
    assert codes_from_bits(torch.tensor([0, 1, 1, 0])).tolist() == [-0.5, 0.5, 0.5, -0.5]


def test_the_sum_is_that_of_the_resized_codes() -> None:
    latent = torch.randn(2, 8, 4, 6)
    result = multiscale_quantize(latent, GRIDS)
    summed = torch.zeros_like(latent)
    for scale, (bits, grid) in enumerate(zip(result.bits, GRIDS, strict=True)):
        assert bits.shape == (2, *grid, 8)
        codes = codes_from_bits(bits).movedim(-1, 1)
        summed = summed + F.interpolate(codes, size=GRIDS[-1], mode="bilinear")
        if scale + 1 < len(GRIDS):
            shown = F.interpolate(summed, size=GRIDS[scale + 1], mode="bilinear")
            torch.testing.assert_close(result.inputs[scale], shown)
    torch.testing.assert_close(result.summed, summed)
    assert len(result.inputs) == len(GRIDS) - 1


def test_quantising_more_scales_comes_nearer() -> None:
    # Smooth, as latents of pictures are: of white noise coarse scales say nothing.
    latent = F.interpolate(torch.randn(4, 8, 2, 2), size=(8, 8), mode="bilinear") * 0.6
    coarse = multiscale_quantize(latent, ((8, 8),)).summed
    fine = multiscale_quantize(latent, ((1, 1), (2, 2), (4, 4), (8, 8))).summed
    assert (fine - latent).square().mean() < (coarse - latent).square().mean()


def test_flipped_bits_are_shown_and_clean_ones_are_the_labels() -> None:
    latent = torch.randn(2, 8, 4, 6)
    clean = multiscale_quantize(latent, GRIDS)
    none = multiscale_quantize(latent, GRIDS, torch.zeros(3, 2))
    for one, other in zip(clean.bits, none.bits, strict=True):
        assert torch.equal(one, other)
    flips = torch.zeros(3, 2)
    flips[0, 1] = 1  # every bit of the second image's first scale
    flipped = multiscale_quantize(latent, GRIDS, flips)
    assert torch.equal(flipped.bits[0], clean.bits[0])
    torch.testing.assert_close(flipped.inputs[0][1], -clean.inputs[0][1])
    torch.testing.assert_close(flipped.inputs[0][0], clean.inputs[0][0])
    # The next scale is asked to make up for the wrong one.
    assert not torch.equal(flipped.bits[1][1], clean.bits[1][1])
    assert torch.equal(flipped.bits[1][0], clean.bits[1][0])


def test_the_share_of_flips_is_the_probability() -> None:
    grids = ((16, 16),)
    latent = torch.randn(1, 32, 16, 16)
    shown = multiscale_quantize(latent, grids, torch.full((1, 1), 0.3), torch.Generator().manual_seed(0)).summed
    share = ((shown > 0) != (latent > 0)).float().mean()
    assert share == pytest.approx(0.3, abs=0.02)


def test_quantising_resizes_as_interpolate_does() -> None:
    latent = torch.randn(2, 8, 9, 7, generator=torch.Generator().manual_seed(0))
    grids = ((1, 1), (2, 3), (9, 7))
    made = multiscale_quantize(latent, grids)
    summed = torch.zeros_like(latent)
    for grid, bits, shown in zip(grids, made.bits, [*made.inputs, None], strict=True):
        assert torch.equal(
            bits.bool(), (F.interpolate(latent - summed, size=grid, mode="area") > 0).permute(0, 2, 3, 1)
        )
        code = (bits.permute(0, 3, 1, 2).float() * 2 - 1) * 8**-0.5
        summed = summed + F.interpolate(code, size=(9, 7), mode="bilinear")
        if shown is not None:
            expected = F.interpolate(summed, size=shown.shape[-2:], mode="bilinear")
            torch.testing.assert_close(shown, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(made.summed, summed, atol=1e-6, rtol=0)


def test_the_first_scales_alone_are_those_of_all() -> None:
    latent = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    some, every = multiscale_quantize(latent, GRIDS[:2]), multiscale_quantize(latent, GRIDS)
    assert all(torch.equal(one, other) for one, other in zip(some.bits, every.bits[:2], strict=True))
    assert torch.equal(some.inputs[0], every.inputs[0])
