"""Infinity with random weights, made where it is to run: times do not depend on what a model has learnt."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from toprovar.manifest import ModelRecord
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.geometry import restore_constants, scale_constants
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.loader import Defaults, LoadedModel
from toprovar.models.schedules import Schedule
from toprovar.plan import Ranking

__all__ = ["SIZES", "RandomModel", "RandomText", "make_model"]

_TEXT_VALUES = 4096
_VAE_16 = (128, 256, 512, 512, 512)


@dataclass(frozen=True)
class _Size:
    transformer: InfinityConfig
    vae: VAEConfig
    resolution: str
    temperature: float


def _transformer(depth: int, width: int, heads: int, bits: int, channels: int, words: int) -> InfinityConfig:
    return InfinityConfig(depth, depth // 2, width, heads, 4 * width, bits, channels, words, min(heads, 16), 15)


SIZES = {
    "2b": _Size(_transformer(32, 2048, 16, 32, 2048, 512), VAEConfig(32, _VAE_16, _VAE_16, 2, 4), "1M", 0.5),
    "8b": _Size(_transformer(40, 3584, 28, 56, 2048, 512), VAEConfig(14, _VAE_16[:4], _VAE_16[:4], 2, 3), "1M", 1.0),
    "tiny": _Size(_transformer(2, 128, 2, 8, 32, 32), VAEConfig(8, (32, 64), (32, 64), 1, 1), "0.06M", 0.5),
}
"""By name: sizes of the published models, and one for a trial on a CPU."""


@dataclass(frozen=True)
class RandomModel:
    """A model and what a backend needs beside it.

    Attributes:
        loaded: the model.
        grids: its schedule.
        record: its facts.
    """

    loaded: LoadedModel
    grids: Schedule
    record: ModelRecord

    def constants(self, ranking: Ranking) -> Mapping[str, np.ndarray]:
        """Tables as `toprovar.runtime.backends.base.Backend` takes them."""
        config = self.loaded.backbone.config
        constants = scale_constants(self.grids, config.head_dim, self.loaded.latent_grids(self.grids))
        constants |= restore_constants(self.grids)
        constants["unconditional"] = self.loaded.backbone.cfg_uncond.detach().float().cpu().numpy()
        empty = np.zeros((len(self.grids), 0, config.heads), np.float32)
        constants["entropy_mean"] = np.asarray(ranking.mean, np.float32) if ranking.observers else empty
        constants["entropy_deviation"] = np.asarray(ranking.deviation, np.float32) if ranking.observers else empty
        return constants


def make_model(name: str, device: str, dtype: torch.dtype, seed: int = 0) -> RandomModel:
    """Draws the weights of a model of `SIZES` on a device."""
    size = SIZES[name]
    torch.manual_seed(seed)
    with torch.device("meta"):
        backbone, vae = Infinity(size.transformer), BSQVAE(size.vae)
    backbone = _filled(backbone.to(dtype), device)
    # On the host, as a checkpoint's: the runtime takes the decoder's tensors in its own precision.
    vae = _filled(vae, device).cpu()
    patchify = size.transformer.code_bits != size.vae.bits
    defaults = Defaults(3.0, size.temperature)
    loaded = LoadedModel(
        "infinity", f"random {name}", "0" * 64, backbone, vae, patchify, None, defaults, size.resolution
    )
    grids = loaded.schedule()
    return RandomModel(loaded, grids, loaded.record(grids))


class RandomText:
    """A text encoder of random features (`toprovar.models.text.TextEncoder`): one token a word, whatever it is.

    Args:
        channels: channels of a text token.
        max_tokens: text tokens at most.
    """

    kind: Literal["words"] = "words"

    def __init__(self, channels: int, max_tokens: int) -> None:
        self.channels, self.max_tokens = channels, max_tokens
        self.module: nn.Module = nn.Embedding(_TEXT_VALUES, channels)

    def token_ids(self, prompt: str) -> list[int]:
        """A number for each word."""
        return [zlib.crc32(word.encode()) % _TEXT_VALUES for word in prompt.split()][: self.max_tokens]

    def files(self) -> Mapping[str, bytes]:
        """Nothing."""
        return {}


@torch.no_grad()
def _filled(model: nn.Module, device: str) -> nn.Module:
    """Activations keep their size: matrices are scaled by their inputs, norms start as they are."""
    model = model.to_empty(device=device).eval().requires_grad_(False)
    for buffer in model.buffers():
        buffer.zero_()
    for name, parameter in model.named_parameters():
        if "norm" in name and parameter.dim() == 1:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        elif "scale_mul" in name:
            parameter.fill_(np.log(10.0))
        else:
            inputs = parameter[0].numel() if parameter.dim() > 1 else 100
            parameter.normal_(std=inputs**-0.5)
    return model
