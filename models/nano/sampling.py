"""Images from a model in training: a plain loop over scales, and which guidance and temperature suit it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from toprovar import signature
from toprovar.evaluation.suites.shapes import CALIBRATION_PROMPTS, CATEGORIES, ShapePrompt, ShapeScore, check, summarise
from toprovar.models.bsq_vae import BSQVAE
from toprovar.models.geometry import scale_constants
from toprovar.models.infinity import Infinity
from toprovar.models.nano import settings
from toprovar.models.nano.text_encoder import WordEncoder
from toprovar.models.nano.training import write_atomically
from toprovar.models.nano.vocabulary import encode
from toprovar.models.schedules import Schedule
from toprovar.models.step import Decode, Prompt, ScaleStep

__all__ = ["EXAMPLES", "Sampler", "Setting", "compare_settings", "save_grid", "score_table", "tuning_prompts"]

EXAMPLES = (
    "a yellow star",
    "a cross and a ring",
    "three green triangles",
    "a large purple diamond",
    "a red circle to the left of a blue square",
    "an orange ring and a cyan cross",
    "a dotted pink square",
    "two small striped red stars on a checkered gray background",
)
"""One caption a category, and a long one."""

_BATCH = 32


@dataclass(frozen=True)
class Setting:
    """How to sample: guidance and temperature of every scale."""

    guidance: float = settings.GUIDANCE
    temperature: float = settings.TEMPERATURE


class Sampler:
    """Generates eagerly, a batch at a time, on the device of its models.

    Args:
        backbone: the transformer.
        text: its text encoder.
        vae: its tokenizer; None gives the summed codes instead of images.
        grids: token grids.
    """

    def __init__(self, backbone: Infinity, text: WordEncoder, vae: BSQVAE | None, grids: Schedule) -> None:
        self._backbone = backbone
        self._text = text
        self._decode = Decode(vae) if vae is not None else None
        self._grids = grids
        self._step = ScaleStep(backbone, patchify=False, guidance_layers=(backbone.config.depth,))
        self._device = backbone.pos_start.device
        constants = scale_constants(grids, backbone.config.head_dim, grids)
        self._constants = {name: torch.from_numpy(table).to(self._device) for name, table in constants.items()}

    @torch.inference_mode()
    def __call__(self, captions: Sequence[str], setting: Setting, seed: int = 0) -> Tensor:
        """Images of captions, float32 [B, 3, H, W] in [-1, 1]; the same for the same seed, batch and device."""
        generator = torch.Generator(self._device).manual_seed(seed)
        parts = [captions[start : start + _BATCH] for start in range(0, len(captions), _BATCH)]
        return torch.cat([self._generate(part, setting, generator) for part in parts])

    def _generate(self, captions: Sequence[str], setting: Setting, generator: torch.Generator) -> Tensor:
        config, images = self._backbone.config, len(captions)
        rows = 2 * images
        given = self._prompt(captions)
        cache = torch.zeros(rows, config.heads, 0, config.head_dim, device=self._device)
        pasts = signature.cache_names(config.depth, "past")
        given |= dict.fromkeys(pasts, cache)
        row = torch.arange(rows, device=self._device)
        given |= {"conditional_rows": row[:images], "unconditional_rows": row[images:], "image_of_row": row % images}
        given |= {"summed": torch.zeros(images, config.code_bits, *self._grids[-1], device=self._device)}
        certain = math.log(settings.TOP_P / (1 - settings.TOP_P))
        for name, value in (("guidance", setting.guidance), ("temperature", setting.temperature), ("certain", certain)):
            given[name] = torch.tensor(value, device=self._device)
        for scale, (height, width) in enumerate(self._grids):
            given |= {name: self._constants[f"{name}.{scale}"] for name in signature.SCALE_CONSTANTS}
            shape = images, height * width, config.code_bits
            uniform = torch.rand(shape, generator=generator, device=self._device)
            noise = torch.logit(uniform.clamp(1e-7, 1 - 1e-7))
            given |= {"scale": torch.tensor(scale, device=self._device), "noise": noise}
            outputs = self._step(*(given[name] for name in self._step.signature.inputs))
            named = dict(zip(self._step.signature.outputs, outputs, strict=True))
            given |= {"x": named["next_x"], "summed": named["next_summed"]}
            given |= {name: named[name.replace("past", "present")] for name in pasts}
        return self._decode(given["summed"]) if self._decode is not None else given["summed"]

    def _prompt(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """The state after the text: conditional rows first, then as many unconditional ones."""
        tokens = torch.tensor([encode(caption) for caption in captions], device=self._device)
        mask = (tokens > 0).float()
        features = self._text(tokens, mask)
        unconditional = self._backbone.cfg_uncond.expand(len(tokens), -1, -1)
        outputs = Prompt(self._backbone)(torch.cat([features, unconditional]), torch.cat([mask, mask]))
        return dict(zip(signature.prompt(self._backbone.config.depth).outputs, outputs, strict=True))


def tuning_prompts(each: int = 8) -> tuple[ShapePrompt, ...]:
    """The first calibration prompts of each category: ShapeEval's own prompts are kept for the final score."""
    return tuple(
        prompt
        for category in CATEGORIES
        for prompt in [one for one in CALIBRATION_PROMPTS if one.requirements.category == category][:each]
    )


def compare_settings(
    sampler: Sampler, prompts: Sequence[ShapePrompt], tried: Sequence[Setting], workers: Pool
) -> dict[Setting, ShapeScore]:
    """ShapeEval of each setting, one image a prompt, checked by the workers while the next are generated."""
    captions = [prompt.text for prompt in prompts]
    pending = {}
    for setting in tried:
        images = sampler(captions, setting)
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        jobs = [(prompt.requirements, np.ascontiguousarray(one)) for prompt, one in zip(prompts, pixels, strict=True)]
        pending[setting] = workers.starmap_async(check, jobs)
    return {setting: summarise(prompts, result.get(timeout=600)) for setting, result in pending.items()}


def score_table(scores: dict[Setting, ShapeScore]) -> str:
    """The scores as lines of text, the best mean first."""
    lines = [f"guidance  tau   mean  {'  '.join(CATEGORIES)}"]
    for setting, score in sorted(scores.items(), key=lambda item: -item[1].mean):
        shares = "  ".join(f"{one.share:>{len(one.category)}.2f}" for one in score.categories)
        lines.append(f"{setting.guidance:8.1f} {setting.temperature:4.1f}   {score.mean:.2f}  {shares}")
    return "\n".join(lines)


def save_grid(images: Tensor, path: Path, columns: int = 8) -> None:
    """Writes images [B, 3, H, W] in [-1, 1] as one PNG."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    rows = [np.concatenate(list(pixels[i : i + columns]), axis=1) for i in range(0, len(pixels), columns)]
    picture = Image.fromarray(np.concatenate([row for row in rows if row.shape == rows[0].shape], axis=0))
    write_atomically({path: lambda place: picture.save(place, format="PNG")})
