"""Compares this implementation with what the official one computed.

``python -m toprovar.models.parity FOLDER/NAME`` rebuilds the golden model NAME, replays its forced bits and
prints the largest error of the logits per scale, of the summed codes, of what they show the next scales, and of
the image. The transformer rounds as the official one did (`toprovar.models.official_numerics`).
``python -m toprovar.models.parity --keys FILE.keys.json`` builds a full-size model without allocating it and
prints missing, unexpected and mis-shaped keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional as F

from toprovar import jsonfile, signature
from toprovar.errors import ArtefactError, CheckpointError, ToProVARError
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.checkpoint import load_strictly, read_state_dict
from toprovar.models.geometry import rope_angles, rope_reference, scale_constants
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.loader import guidance_layers
from toprovar.models.official_numerics import OfficialRounding, add_codes, resize_codes
from toprovar.models.step import Decode, Prompt, ScaleStep

__all__ = ["compare_golden", "compare_keys"]

_FACTS = ("scale_schedule", "apply_spatial_patchify", "cfg", "tau", "cfg_insertion_layer")


def _per_scale(facts: Mapping[str, Any], name: str, scales: int) -> list[float]:
    values = facts[name] if isinstance(facts[name], list) else [facts[name]] * scales
    if len(values) < scales:
        raise ArtefactError(f"{len(values)} values; expected one for each of {scales} scales", field=name)
    return [float(value) for value in values]


def _errors(actual: Tensor, expected: Tensor) -> dict[str, float]:
    difference = (actual.double() - expected.double()).abs().max().item()
    return {"absolute": difference, "relative": difference / max(expected.abs().max().item(), 1e-30)}


@torch.inference_mode()
def compare_golden(stem: Path) -> dict[str, Any]:
    """Replays the golden set ``STEM.json``, ``STEM.io.safetensors``, ...; returns errors by quantity.

    Raises:
        ArtefactError: the configuration is missing or damaged, or a recorded tensor is missing.
        CheckpointError: a file of tensors is missing, damaged or of another architecture.
    """
    facts = _read_json(_part(stem, "json"), _FACTS)
    grids = tuple((int(grid[-2]), int(grid[-1])) for grid in facts["scale_schedule"])
    io = read_state_dict(_part(stem, "io.safetensors"))
    recorded = ["text", "summed_codes", "image", *(f"bits.{scale}" for scale, _ in enumerate(grids))]
    _require(io, recorded, _part(stem, "io.safetensors"))
    backbone, vae = load_pair(
        read_state_dict(_part(stem, "transformer.safetensors")),
        read_state_dict(_part(stem, "vae.safetensors")),
        stem.name,
    )
    depth, head_dim = backbone.config.depth, backbone.config.head_dim
    patchify = bool(facts["apply_spatial_patchify"])
    latent = tuple((2 * h, 2 * w) for h, w in grids) if patchify else grids
    constants = scale_constants(grids, head_dim, latent)
    guidance = _per_scale(facts, "cfg", len(grids))
    temperature = _per_scale(facts, "tau", len(grids))
    texts = [io["text"]]
    if any(value != 1 for value in guidance):
        texts.append(io["negative_text"] if "negative_text" in io else backbone.cfg_uncond[: len(io["text"])])
    rows = len(texts)
    with OfficialRounding():
        prompt = Prompt(backbone)(*_pad(texts))
    given = dict(zip(signature.prompt(depth).outputs, prompt, strict=True))
    for name in signature.cache_names(depth, "past"):
        given[name] = torch.zeros(rows, backbone.config.heads, 0, head_dim)
    given |= {"summed": torch.zeros(1, vae.config.bits, *latent[-1]), "conditional_rows": torch.tensor([0])}
    given |= {"unconditional_rows": torch.tensor([rows - 1]), "image_of_row": torch.zeros(rows, dtype=torch.int64)}
    step = ScaleStep(backbone, patchify, guidance_layers(facts["cfg_insertion_layer"], depth))
    report: dict[str, Any] = {"name": stem.name, "logits": [], "next_inputs": []}
    official_sum = None
    for scale, grid in enumerate(grids):
        given |= {name: torch.from_numpy(constants[f"{name}.{scale}"]) for name in signature.SCALE_CONSTANTS}
        angles = torch.from_numpy(rope_angles(grid, rope_reference(grids), head_dim))
        given |= {"scale": torch.tensor(scale), "rope": torch.stack([angles.cos(), angles.sin()])}
        # The official sampler holds both as Python floats: rounded after 1 - guidance, not before.
        given["guidance"] = torch.tensor(guidance[scale], dtype=torch.float64)
        given["temperature"] = torch.tensor(temperature[scale], dtype=torch.float64)
        with OfficialRounding():
            blocks = step.run_blocks(given)
            logits = step.guided_logits(blocks.hidden, given)
        if f"logits.{scale}" in io:
            report["logits"].append(_errors(logits.flatten(1, 2), io[f"logits.{scale}"]))
        given |= dict(zip(signature.cache_names(depth, "past"), blocks.presents, strict=True))
        bits = io[f"bits.{scale}"]
        next_input, given["summed"] = step.advance(_tokens(bits, patchify), given)
        official_sum = add_codes(official_sum, bits, latent[-1])
        if scale + 1 < len(grids):
            with OfficialRounding():
                shown = backbone.embed_codes(resize_codes(official_sum, latent[scale + 1], patchify))
            given["x"] = shown.expand(rows, -1, -1)
            report["next_inputs"].append(_errors(next_input, given["x"]))
    report["summed_codes"] = _errors(given["summed"], io["summed_codes"])
    report["image"] = _errors(Decode(vae)(given["summed"]), io["image"])
    return report


def _part(stem: Path, suffix: str) -> Path:
    return stem.with_name(f"{stem.name}.{suffix}")


def _read_json(path: Path, fields: Sequence[str]) -> dict[str, Any]:
    try:
        content = jsonfile.parse(jsonfile.read_text(path))
    except ArtefactError as error:
        raise error.located(str(path)) from None
    if not isinstance(content, dict):
        raise ArtefactError("holds no object; expected one with names", file=str(path))
    _require(content, fields, path)
    return content


def _require(content: Mapping[str, Any], names: Sequence[str], path: Path) -> None:
    missing = [name for name in names if name not in content]
    if missing:
        raise ArtefactError(f"lacks {', '.join(missing)}; expected a complete golden set", file=str(path))


def _tokens(bits: Tensor, patchify: bool) -> Tensor:
    """Bits [1, 1, h, w, d] as the decoder sees them to those of the tokens [1, L, bits]."""
    bits = bits.squeeze(1)
    if patchify:
        bits = F.pixel_unshuffle(bits.movedim(-1, 1).float(), 2).movedim(1, -1).to(torch.uint8)
    return bits.flatten(1, 2)


def _pad(texts: list[Tensor]) -> tuple[Tensor, Tensor]:
    longest = max(len(text) for text in texts)
    features = torch.stack([F.pad(text, (0, 0, 0, longest - len(text))) for text in texts])
    mask = torch.tensor([[1.0] * len(text) + [0.0] * (longest - len(text)) for text in texts])
    return features, mask


def load_pair(transformer: dict[str, Tensor], vae: dict[str, Tensor], source: str) -> tuple[Infinity, BSQVAE]:
    """Builds transformer and tokenizer from their tensors.

    Raises:
        CheckpointError: keys do not fit the architecture that the tensors suggest.
    """
    shapes = [{key: tuple(value.shape) for key, value in state.items()} for state in (transformer, vae)]
    with torch.device("meta"):
        models = _build(*shapes)
    for model, state, part in zip(models, (transformer, vae), ("transformer", "vae"), strict=True):
        load_strictly(model, state, f"{source} ({part})")
    return models


def _build(transformer: dict[str, tuple[int, ...]], vae: dict[str, tuple[int, ...]]) -> tuple[Infinity, BSQVAE]:
    try:
        return Infinity(InfinityConfig.from_shapes(transformer)), BSQVAE(VAEConfig.from_shapes(vae))
    except KeyError as error:
        raise CheckpointError(
            f"the key {error} is missing, which every Infinity has",
            hint="check that transformer and VAE were not exchanged and that the files are complete",
        ) from None


def compare_keys(path: Path) -> dict[str, Any]:
    """Builds the model that the key list describes on the meta device and compares keys and shapes.

    Raises:
        ArtefactError: the list is missing or damaged.
        CheckpointError: it lacks a key that every Infinity has.
    """
    listed = _read_json(path, ("transformer", "vae"))
    shapes = {part: {key: tuple(entry[0]) for key, entry in listed[part].items()} for part in ("transformer", "vae")}
    with torch.device("meta"):
        models = dict(zip(("transformer", "vae"), _build(shapes["transformer"], shapes["vae"]), strict=True))
    report: dict[str, Any] = {"file": path.name}
    for part, model in models.items():
        own = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        report[part] = {
            "keys": len(own),
            "missing": sorted(own.keys() - shapes[part].keys()),
            "unexpected": sorted(shapes[part].keys() - own.keys()),
            "mis_shaped": sorted(key for key in own.keys() & shapes[part].keys() if own[key] != shapes[part][key]),
        }
    return report


@click.command()
@click.argument("golden", required=False, type=click.Path(path_type=Path))
@click.option("--keys", type=click.Path(path_type=Path), help="A list of official keys to compare with.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(golden: Path | None, keys: Path | None, as_json: bool) -> None:
    """Compare with golden data (FOLDER/NAME) or with a list of official keys."""
    if (golden is None) == (keys is None):
        raise click.UsageError("give either FOLDER/NAME or --keys FILE")
    try:
        report = compare_keys(keys) if keys else compare_golden(golden)
    except ToProVARError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(report))
        return
    for name, value in report.items():
        for line in value if isinstance(value, list) else [value]:
            click.echo(f"{name}: {line}")


if __name__ == "__main__":
    main()
