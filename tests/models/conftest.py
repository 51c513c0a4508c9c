"""A tiny model with random weights, and a loop over scales to run it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from toprovar import signature
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.geometry import restore_constants, scale_constants
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.schedules import Schedule
from toprovar.models.step import Prompt, ScaleStep

GRIDS: Schedule = ((1, 1), (2, 2), (3, 4), (4, 5))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def infinity_config(depth: int = 4, chunks: int = 2, code_bits: int = 8, text_channels: int = 12) -> InfinityConfig:
    return InfinityConfig(
        depth=depth,
        chunks=chunks,
        width=32,
        heads=2,
        hidden=64,
        code_bits=code_bits,
        text_channels=text_channels,
        text_max_tokens=6,
        pool_heads=4,
        levels=15,
    )


def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Every parameter matters: with the initial zeros, a term left out would not show."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        spread = 0.3 if parameter.dim() < 2 or min(parameter.shape) == 1 else parameter[0].numel() ** -0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def make_backbone() -> Callable[..., Infinity]:
    def make(seed: int = 0, **options: int) -> Infinity:
        return randomise(Infinity(infinity_config(**options)), seed)

    return make


@pytest.fixture(scope="session")
def make_vae() -> Callable[..., BSQVAE]:
    def make(bits: int = 8, seed: int = 1) -> BSQVAE:
        config = VAEConfig(bits, encoder_channels=(32, 64), decoder_channels=(32, 64), blocks=1, downsamples=1)
        return randomise(BSQVAE(config), seed)

    return make


@pytest.fixture(scope="session")
def backbone(make_backbone: Callable[..., Infinity]) -> Infinity:
    return make_backbone()


@dataclass(frozen=True)
class Generation:
    """What every scale gave, by the output names of `toprovar.signature`, and its guided logits."""

    scales: list[dict[str, Tensor]]
    logits: list[Tensor]


@pytest.fixture(scope="session")
def generate() -> Callable[..., Generation]:
    return _generate


@torch.inference_mode()
def _generate(
    step: ScaleStep,
    features: Tensor,
    mask: Tensor,
    *,
    images: int = 1,
    grids: Schedule = GRIDS,
    scales: int | None = None,
    guidance: float = 1.0,
    temperature: float = 1.0,
    certain: float = float("inf"),
    seeds: Sequence[int] = (0,),
    forced: Sequence[Tensor] | None = None,
    order: Callable[[int], Tensor] | None = None,
    kept: Callable[[int, int], list[int]] | None = None,
) -> Generation:
    """Runs all scales; rows are `images`, or twice that with guidance.

    Args:
        step: the step, adaptive if `order` is given.
        features: text [R, T, channels].
        mask: [R, T].
        images: number of images.
        grids: token grids.
        scales: number of scales to run; None runs all.
        guidance: of every scale.
        temperature: of every scale.
        certain: of every scale.
        seeds: of each image's noise.
        forced: bits [B, L, d] of each scale, instead of drawn ones.
        order: tokens in a scale to an order [B, L].
        kept: scale and its tokens to kept counts.
    """
    backbone = step.backbone
    config, rows = backbone.config, len(features)
    factor = 2 if step.patchify else 1
    latent = tuple((h * factor, w * factor) for h, w in grids)
    constants = scale_constants(grids, config.head_dim, latent) | restore_constants(grids)
    given = dict(zip(signature.prompt(config.depth).outputs, Prompt(backbone)(features, mask), strict=True))
    pasts = signature.cache_names(config.depth, "past")
    given |= {name: torch.zeros(rows, config.heads, 0, config.head_dim) for name in pasts}
    given |= {
        "summed": torch.zeros(images, config.code_bits // factor**2, *latent[-1]),
        "conditional_rows": torch.arange(images),
        "unconditional_rows": torch.arange(images) + rows - images,
        "image_of_row": torch.arange(rows) % images,
        "guidance": torch.tensor(guidance),
        "temperature": torch.tensor(temperature),
        "certain": torch.tensor(certain),
        "prior": torch.zeros(images, 1),
        "entropy_mean": torch.full((len(step.pruning.observers), config.heads), 0.9),
        "entropy_deviation": torch.full((len(step.pruning.observers), config.heads), 0.1),
    }
    updates, updated = signature.update_names(config.depth), 0
    given |= dict.fromkeys(updates, torch.zeros(rows, 1, config.width))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    result = Generation([], [])
    for scale, (height, width) in enumerate(grids[:scales]):
        tokens = height * width
        given |= {name: torch.from_numpy(constants[f"{name}.{scale}"]) for name in signature.SCALE_CONSTANTS}
        uniform = torch.stack([torch.rand(tokens, config.code_bits, generator=one) for one in generators])
        given |= {"scale": torch.tensor(scale), "noise": torch.logit(uniform.clamp(1e-6, 1 - 1e-6))}
        if order is not None:
            given["order"] = order(tokens)
            counts = [tokens] * config.depth if kept is None else kept(scale, tokens)
            given["kept"] = torch.tensor(counts)
            given.setdefault("carried_logits", torch.zeros(images, tokens, config.code_bits, 2))
            for name in ("restore_rows", "restore_columns"):
                given[name] = torch.from_numpy(constants[f"{name}.{updated}.{scale}"])
        result.logits.append(step.guided_logits(step.run_blocks(given).hidden, given))
        outputs = dict(zip(step.signature.outputs, step(*(given[name] for name in step.signature.inputs)), strict=True))
        if forced is not None:
            outputs["next_x"], outputs["next_summed"] = step.advance(forced[scale], given)
        result.scales.append(outputs)
        given |= {"x": outputs["next_x"], "summed": outputs["next_summed"]}
        given |= {name: outputs[name.replace("past", "present")] for name in pasts}
        if "next_prior" in outputs:
            given["prior"] = outputs["next_prior"]
        if "next_carried_logits" in outputs:
            given["carried_logits"] = outputs["next_carried_logits"]
        if f"new_{updates[0]}" in outputs and all(count == tokens for count in counts):
            updated = scale
            given |= {name: outputs[f"new_{name}"] for name in updates}
    return result
