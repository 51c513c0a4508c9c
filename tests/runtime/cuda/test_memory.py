"""What a model needs, of Infinity-2B in its real size without its weights, and what is said where it is too much."""

from __future__ import annotations

import dataclasses

import pytest

from toprovar.errors import BackendError
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.meta import shapes_only
from toprovar.models.tensors import PackedDecoder, PackedTransformer, count
from toprovar.runtime.cuda.memory import DoesNotFit, MemoryEstimate, cheaper, estimate, require
from toprovar.runtime.cuda.slot import Shapes

CONFIG = InfinityConfig(32, 8, 2048, 16, 8192, 32, 2048, 512, 16, 15)
GIB = 2**30
T5 = 4.9 * GIB


@pytest.fixture(scope="module")
def pair() -> tuple[Infinity, BSQVAE]:
    with shapes_only():
        return Infinity(CONFIG), BSQVAE(VAEConfig(32, (128, 256, 512, 512, 512), (128, 256, 512, 512, 512), 2, 4))


def needed(pair: tuple[Infinity, BSQVAE], precision: str = "bf16", low_vram: bool = False) -> MemoryEstimate:
    sides = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64)
    tokens = [side * side for side in sides]
    shapes = Shapes(
        layers=32,
        width=2048,
        heads=16,
        head_dim=128,
        hidden=8192,
        code_bits=32,
        code_channels=32,
        latent=(64, 64),
        tokens=max(tokens),
        cached=sum(tokens),
        carries_pairs=False,
    )
    shapes = dataclasses.replace(shapes, scaled=precision == "fp8")
    item = 4 if precision == "fp32" else 2
    backbone, vae = pair
    return estimate(backbone.tensors(), vae.decoder_tensors(), shapes, 1, 2, item, 64, int(T5), low_vram)


def test_the_tensors_are_all_that_a_model_has(pair: tuple[Infinity, BSQVAE]) -> None:
    """But the text of the unconditional rows, which the tables hold, and biases of keys, which are zeros."""
    backbone, vae = pair
    assert isinstance(backbone, PackedTransformer)
    assert isinstance(vae, PackedDecoder)
    parameters = sum(one.numel() for one in backbone.parameters()) - backbone.cfg_uncond.numel()
    assert count(backbone.tensors()) == parameters + (2 * CONFIG.depth + 1) * CONFIG.width
    assert count(vae.decoder_tensors()) == sum(one.numel() for one in vae.decoder.parameters())


def test_parts_of_infinity_2b(pair: tuple[Infinity, BSQVAE]) -> None:
    parts = needed(pair)
    assert parts.weights == pytest.approx(4.4e9, rel=0.02)
    assert parts.cache == pytest.approx(32 * 2 * 2 * 10521 * 2048 * 2, rel=0.01)
    assert parts.total - parts.encoder < 13 * GIB
    assert needed(pair, "fp32").weights == 2 * parts.weights


def test_what_needs_less(pair: tuple[Infinity, BSQVAE]) -> None:
    own = needed(pair)
    others = {name: needed(pair, *how) for name, how in {"fp8": ("fp8",), "less": ("bf16", True), "same": ()}.items()}
    eight, less = cheaper(own, others)
    assert eight.startswith("fp8 (1.")
    assert less.startswith("less (1.")
    assert others["less"].encoder + others["less"].decoder == max(own.encoder, own.decoder)


def test_what_does_not_fit_is_refused() -> None:
    parts = MemoryEstimate(weights=5 * GIB, cache=6 * GIB, activations=1 * GIB, text=1 << 20, decoder=1 * GIB)
    remedies = ["--precision fp8 (2.00 GiB less)", "--low-vram (1.00 GiB less)", "something else"]
    require(parts, 15 * GIB, "model.pth in bf16", remedies)
    with pytest.raises(DoesNotFit) as caught:
        require(parts, 12 * GIB, "model.pth in bf16", remedies)
    assert isinstance(caught.value, BackendError)
    assert caught.value.message == (
        "model.pth in bf16 needs 14.00 GiB (cache 6.00 GiB, weights 5.00 GiB, activations 1.00 GiB, "
        "decoder 1.00 GiB, overhead 1.00 GiB); the GPU has 12.00 GiB free"
    )
    assert caught.value.hint == (
        "free the GPU, or try --precision fp8 (2.00 GiB less), --low-vram (1.00 GiB less) or something else"
    )
