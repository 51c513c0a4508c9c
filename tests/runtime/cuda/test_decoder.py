"""The image decoder: whole, in strips, and only while it is needed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.pruning import Pruning
from toprovar.runtime.cuda.decoder import Decoder
from toprovar.runtime.cuda.decoder_ops import PlainDecoderOps
from toprovar.runtime.cuda.options import RuntimeOptions

from .small_model import features, make_model, make_plan, make_session


@pytest.fixture(scope="module")
def vae() -> BSQVAE:
    torch.manual_seed(0)
    return BSQVAE(VAEConfig(8, (32, 64, 64), (32, 64, 64), 1, 2)).eval().requires_grad_(False)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 8, 16, 27, 28, 100])
def test_strips_are_the_image(rows: int, images: int, vae: BSQVAE) -> None:
    latent = torch.randint(0, 2, (images, 8, 7, 5), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    with torch.inference_mode():
        own = Decoder(vae.decoder_tensors(), torch.float32, torch.device("cpu"), PlainDecoderOps(), rows)(latent)
        torch.testing.assert_close(own, vae.decode(latent), rtol=1e-4, atol=1e-5)


def test_a_decoder_that_is_loaded_for_every_image() -> None:
    loaded = make_model()
    plan = make_plan(loaded, Pruning(), lambda s, t: (t, t, t))
    made = []
    for low_vram in (False, True):
        options = RuntimeOptions("fp32", captured=False, fused=False, low_vram=low_vram)
        with make_session(loaded, plan, options) as session:
            made.append(session([features(), features(seed=1)], batch_size=2).images)
            assert (session.backend._runtime._decoding._decoder is None) == low_vram
    for one, other in zip(*made, strict=True):
        assert np.array_equal(one.pixels, other.pixels)


def test_pictures_are_the_pixels_rounded_down() -> None:
    loaded = make_model()
    plan = make_plan(loaded, Pruning(), lambda s, t: (t, t, t))
    for options in (None, RuntimeOptions.plain()):
        with make_session(loaded, plan, options) as session:
            for image in session([features(), features(seed=1)], batch_size=2).images:
                expected = ((image.pixels.transpose(1, 2, 0) + 1) * 127.5).clip(0, 255).astype(np.uint8)
                assert image.image.mode == "RGB"
                assert np.array_equal(np.asarray(image.image), expected)
