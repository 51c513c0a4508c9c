"""nano's tokenizer in training, on rendered scenes.

Hard quantisation from the start stalls at about 21 dB. Instead, for the first part of the run the last
residual gets uniform noise of one quantisation step, which is what quantising it costs, but differentiable;
then straight-through quantisation takes over.

The decoder's group norms average over the whole image. Left alone, it learns to steer them by "droplets" (Karras
et al., "Analyzing and improving the image quality of StyleGAN", 2020): a few pixels of background with activations
some 80 times the usual. They smudge every picture and, where a generation has no place for one, ruin it. A penalty
on the activations' kurtosis over the image takes that way out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

import torch
from torch import Tensor, nn

from toprovar.models.bsq_vae import BSQVAE, VAEConfig, multiscale_quantize
from toprovar.models.checkpoint import read_state_dict
from toprovar.models.nano.data import PendingScenes, ScenePool
from toprovar.models.nano.sampling import save_grid
from toprovar.models.nano.training import Loop, Moment, Plan, Processes, report, save_half
from toprovar.models.schedules import schedule

__all__ = ["CONFIG", "GRIDS", "TokenizerSettings", "psnr", "read_tokenizer", "train_tokenizer"]

CONFIG = VAEConfig(
    bits=32, encoder_channels=(32, 64, 64, 96), decoder_channels=(32, 64, 96, 128), blocks=1, downsamples=3
)
GRIDS = schedule("1:1", "0.25M")
_SEED = 20261124
_HELD_OUT = 512
_EMPTY = 0.05
"""Share of the scenes that lose their objects: a generation may draw none, and the decoder must know how that looks."""
_EVEN_ENOUGH = 10.0
"""Kurtosis that costs nothing: objects cover a tenth of a scene, droplets have 300."""
_DROPLETS = 0.02
"""What a unit of log kurtosis beyond that counts in the loss once half of the schedule is over, less before: taken
away at once, droplets leave a decoder that draws nothing and learns all anew."""


@dataclass(frozen=True)
class TokenizerSettings:
    """What a run is made of, besides its `Plan`.

    Attributes:
        batch: images a process and step.
        pool: scenes a process.
        compiled: compile encoder and decoder.
        noise_share: part of the schedule with noise for quantisation.
        decoder_only: keep the encoder, and so the codes that a transformer has learnt.
    """

    batch: int = 40
    pool: int = 65536
    compiled: bool = True
    noise_share: float = 0.4
    decoder_only: bool = False


def psnr(actual: Tensor, expected: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each image in [-1, 1], [B]."""
    error = (actual.clamp(-1, 1) - expected).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error)


def read_tokenizer(path: Path, device: torch.device) -> BSQVAE:
    """Loads vae.safetensors in single precision."""
    vae = BSQVAE(CONFIG)
    vae.load_state_dict(read_state_dict(path))
    return vae.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)


def train_tokenizer(
    processes: Processes,
    out: Path,
    plan: Plan,
    options: TokenizerSettings,
    workers: Pool,
    resume: bool = False,
    weights: Path | None = None,
) -> bool:
    """Trains, reports PSNR on held-out scenes and writes vae.safetensors in half precision.

    Args:
        processes: those that train together.
        out: folder of vae.safetensors, pictures and the state.
        plan: how long and how fast.
        options: the rest.
        workers: draw the scenes.
        resume: go on from the state in `out`.
        weights: a vae.safetensors to start from instead of random weights.

    Returns:
        Whether the schedule is over.
    """
    device, file = processes.device, out / "vae.safetensors"
    torch.manual_seed(_SEED)
    vae = BSQVAE(CONFIG)
    if weights is not None:
        vae.load_state_dict(read_state_dict(weights))
    vae = vae.to(device, memory_format=torch.channels_last)
    vae.encoder.requires_grad_(not options.decoder_only)
    trained = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=plan.rate, betas=(0.9, 0.95), weight_decay=0.01)
    loop = Loop(vae, [optimizer], processes, plan, out / "tokenizer-state.pt", _SEED)
    if resume:
        loop.resume(lambda: vae.load_state_dict(read_state_dict(file)))
    pending = PendingScenes.start(options.pool, _SEED + 100 * loop.calls + processes.rank, workers)
    held_out = PendingScenes.start(_HELD_OUT, _SEED - 1, workers).collect(device)
    pool = pending.collect(device).without_objects(_EMPTY)
    encode = torch.compile(vae.encoder) if options.compiled else vae.encoder
    decode = _watched(vae.decoder)
    decode = torch.compile(decode) if options.compiled else decode

    def losses(moment: Moment) -> tuple[Tensor, Callable[[], str]]:
        index = pool.draw(options.batch, moment.generator)
        target = pool.images(index)
        with torch.autocast(device.type, torch.bfloat16):
            latent = encode(target.contiguous(memory_format=torch.channels_last)).float()
            with torch.autocast(device.type, enabled=False):
                noisy = moment.progress < options.noise_share and not options.decoder_only
                shown = _noisy(latent, moment.generator) if noisy else _quantised(latent)
            image, kurtosis = decode(shown)
        strength = _DROPLETS * min(2 * moment.progress, 1.0)
        loss = _loss(image, target, pool.pixel_importance(index)) + strength * _excess(kurtosis)

        def describe() -> str:
            quality = psnr(image.detach().float(), target).mean().item()
            return f"PSNR {quality:.2f} dB, kurtosis up to {kurtosis.detach().mean(1).max().item():.0f}"

        return loss, describe

    def evaluate(_: bool) -> None:
        quality, pictures = _evaluate(loop.average.model, held_out)
        report(f"{_HELD_OUT} held-out scenes: PSNR {quality:.2f} dB")
        save_grid(pictures, out / "tokenizer.png")

    return loop.run(losses, lambda: save_half(loop.average.model.state_dict(), file), evaluate)


def _watched(decoder: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The decoder with, for every residual block and image, the kurtosis of its output's energy over the image.

    The energy of a pixel is the mean square over its channels; 1 is an even image.
    """
    seen: list[Tensor] = []
    for name, module in decoder.named_modules():
        if re.search(r"block(_|\.)\d+$", name):
            module.register_forward_hook(lambda _module, _given, output: seen.append(output))

    def decode(latent: Tensor) -> tuple[Tensor, Tensor]:
        seen.clear()
        image = decoder(latent)
        energies = [output.float().square().mean(1) for output in seen]
        seen.clear()
        return image, torch.stack([_kurtosis(energy) for energy in energies])

    return decode


def _kurtosis(energy: Tensor) -> Tensor:
    """Mean square over squared mean of each map [B, H, W]."""
    return energy.square().mean((1, 2)) / energy.mean((1, 2)).square()


def _excess(kurtosis: Tensor) -> Tensor:
    """Log kurtosis [blocks, B] beyond what costs nothing: the sum over blocks, the mean over images."""
    return (kurtosis / _EVEN_ENOUGH).log().clamp(min=0).sum(0).mean()


def _noisy(latent: Tensor, generator: torch.Generator) -> Tensor:
    """The latent with its last quantisation replaced by uniform noise of one step, clipped to what it can reach."""
    step = latent.shape[1] ** -0.5
    coarse = latent.detach()
    codes = multiscale_quantize(coarse, GRIDS)
    last = (codes.bits[-1].movedim(-1, 1).to(latent.dtype) * 2 - 1) * step
    base = codes.summed - last
    noise = (torch.rand(latent.shape, generator=generator, device=latent.device) * 2 - 1) * step
    return base + (latent - base).clamp(-2 * step, 2 * step) + noise


def _quantised(latent: Tensor) -> Tensor:
    """The quantised latent, with the gradient of the latent."""
    return latent + (multiscale_quantize(latent.detach(), GRIDS).summed - latent).detach()


def _loss(image: Tensor, target: Tensor, importance: Tensor) -> Tensor:
    """L1 + L2 + difference of horizontal and vertical gradients, pixels weighted by `importance`."""
    error = image.float() - target
    gradients = (error.diff(dim=2).abs() * importance[:, :, 1:]).mean()
    gradients = gradients + (error.diff(dim=3).abs() * importance[:, :, :, 1:]).mean()
    return ((error.abs() + 2 * error.square()) * importance).mean() + gradients


@torch.no_grad()
def _evaluate(vae: BSQVAE, pool: ScenePool) -> tuple[float, Tensor]:
    """Mean PSNR over a pool, and its last scenes above what becomes of them."""
    values: list[Tensor] = []
    shown: list[Tensor] = []
    for index in torch.arange(_HELD_OUT, device=pool.tokens.device).split(32):
        images = pool.images(index)
        decoded = vae.decode(multiscale_quantize(vae.encode(images), GRIDS).summed)
        values.append(psnr(decoded, images))
        shown = [torch.cat([images[:16], decoded[:16]]), *shown[:1]]
    return torch.cat(values).mean().item(), torch.cat(shown)
