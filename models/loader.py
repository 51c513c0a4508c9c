"""Opens a model: its transformer, the VAE that belongs to it and, where there is one, its text encoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from toprovar.errors import CheckpointError, UsageError
from toprovar.manifest import ModelRecord, SamplingDefaults, TextRecord
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.checkpoint import file_digest, load_strictly, read_state_dict
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.meta import shapes_only
from toprovar.models.nano import settings
from toprovar.models.schedules import Schedule, schedule
from toprovar.models.t5 import T5Text
from toprovar.models.text import TextEncoder, WordText

__all__ = ["Defaults", "LoadedModel", "build_meta", "build_pair", "guidance_layers", "load_model"]

_Shapes = Mapping[str, tuple[int, ...]]
_Model = TypeVar("_Model", bound=nn.Module)

_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin")
_VAE_KEY = "decoder.conv_in.conv.weight"
_TRANSFORMER_KEY = "word_embed.weight"
_TAU, _PATCHIFIED_TAU = 0.5, 1.0


@dataclass(frozen=True)
class Defaults:
    """How a model samples unless a call says otherwise.

    Attributes:
        guidance: classifier-free guidance scale; 1 is none.
        temperature: divides the logits (tau).
        top_k: most likely values of a bit to sample from; 0 for all.
        top_p: probability mass to sample from; 0 or 1 for all.
    """

    guidance: float
    temperature: float
    top_k: int = 900
    top_p: float = 0.97


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, in fp32, loaded on the CPU.

    Attributes:
        family: name of the backbone's kind.
        source: what `load_model` was given.
        sha256: hash of the files' contents.
        backbone: the transformer.
        vae: the image tokenizer.
        patchify: a token is a 2 x 2 patch of codes.
        text: the text encoder; None where features are given instead of prompts.
        defaults: how to sample.
        default_resolution: a name of `toprovar.models.schedules.RESOLUTIONS`.
        prompts: prompts of the kind that the model was trained on; empty where none are known.
        text_source: folder of a text encoder that the checkpoint does not bring.
    """

    family: str
    source: str
    sha256: str
    backbone: Infinity
    vae: BSQVAE
    patchify: bool
    text: TextEncoder | None
    defaults: Defaults
    default_resolution: str
    prompts: tuple[str, ...] = ()
    text_source: str | None = None

    def to(self, device: torch.device) -> None:
        """Moves all modules, in place."""
        for module in (self.backbone, self.vae, *(() if self.text is None else (self.text.module,))):
            module.to(device)

    def schedule(self, aspect_ratio: str = "1:1", resolution: str | None = None) -> Schedule:
        """Token grids, coarse to fine.

        Raises:
            UsageError: an unknown aspect ratio or resolution.
        """
        return schedule(aspect_ratio, resolution or self.default_resolution)

    def latent_grids(self, grids: Schedule) -> Schedule:
        """Grids of the codes for given token grids."""
        factor = 2 if self.patchify else 1
        return tuple((height * factor, width * factor) for height, width in grids)

    def record(self, grids: Schedule, guidance_layers: tuple[int, ...] | None = None) -> ModelRecord:
        """The manifest's facts about the model at a schedule.

        Args:
            grids: token grids, coarse to fine.
            guidance_layers: as in `toprovar.models.step.ScaleStep`; None guides the logits.
        """
        height, width = self.latent_grids(grids)[-1]
        config = self.backbone.config
        return ModelRecord(
            family=self.family,
            source=self.source,
            sha256=self.sha256,
            layers=config.depth,
            heads=config.heads,
            head_dim=config.head_dim,
            width=config.width,
            code_bits=config.code_bits,
            patchify=self.patchify,
            guidance_layers=(config.depth,) if guidance_layers is None else guidance_layers,
            latent_height=height,
            latent_width=width,
            image_height=height * self.vae.config.stride,
            image_width=width * self.vae.config.stride,
        )

    def sampling(self, scales: int) -> SamplingDefaults:
        """The defaults, the same for each of a number of scales."""
        one = self.defaults
        return SamplingDefaults((one.guidance,) * scales, (one.temperature,) * scales, one.top_k, one.top_p)

    def text_record(self) -> TextRecord:
        """The manifest's facts about the text encoder."""
        config = self.backbone.config
        kind = self.text.kind if self.text is not None else "features"
        return TextRecord(kind, config.text_channels, config.text_max_tokens, self.text_source)


def load_model(source: str, vae: Path | None = None, text_encoder: Path | None = None) -> LoadedModel:
    """Loads a model and what belongs to it.

    Args:
        source: ``nano``, or the path of an Infinity checkpoint: a file, or a folder of shards.
        vae: the VAE's checkpoint; None looks for it in the checkpoint's folder and beside it.
        text_encoder: folder of a T5 encoder; None leaves prompts to be given as features.

    Raises:
        CheckpointError: a file is missing, damaged, unsafe, or not what it is taken for.
        UsageError: a VAE or text encoder is given for nano, which has its own.
        MissingExtra: the text encoder needs an extra.
    """
    if source == "nano":
        if vae is not None or text_encoder is not None:
            raise UsageError("nano has its own VAE and text encoder", "leave out --vae and --text-encoder")
        return _load_nano(settings.WEIGHTS)
    path = Path(source)
    transformer = read_state_dict(path)
    bits = _code_bits(transformer, source)
    chosen = vae if vae is not None else _find_vae(path, bits)
    # Hashing gigabytes takes as long as loading them, and both leave Python's lock to others.
    with ThreadPoolExecutor(1) as beside:
        digest = beside.submit(file_digest, [*_weight_files(path), *_weight_files(chosen)])
        backbone, tokenizer = build_pair(transformer, read_state_dict(chosen), source)
        del transformer
        sha256 = digest.result()
    patchify = backbone.config.code_bits != tokenizer.config.bits
    return LoadedModel(
        family="infinity",
        source=source,
        sha256=sha256,
        backbone=backbone,
        vae=tokenizer,
        patchify=patchify,
        text=_open_t5(text_encoder, backbone) if text_encoder is not None else None,
        defaults=Defaults(3.0, _PATCHIFIED_TAU if patchify else _TAU),
        default_resolution="1M",
        text_source=None if text_encoder is None else str(text_encoder.absolute()),
    )


def guidance_layers(insertion: int | Sequence[int], depth: int) -> tuple[int, ...]:
    """Infinity's ``cfg_insertion_layer`` as layer indices: 0 is the logits (`depth`), -n the n-th layer from the end.

    Raises:
        UsageError: a positive number, or one before the first layer.
    """
    items = [insertion] if isinstance(insertion, int) else list(insertion)
    if not items or any(item > 0 or depth + item <= 0 for item in items):
        raise UsageError(
            f"guidance insertion layers {items}; expected 0 for the logits or -1 to {1 - depth} for a layer",
            "count layers from the end",
        )
    return tuple(depth + item for item in items)


def _load_nano(folder: Path) -> LoadedModel:
    single = folder / "model.safetensors"
    transformer = single if single.exists() else folder
    others = (folder / "vae.safetensors", folder / "text_encoder.safetensors")
    missing = [file.name for file in others if not file.exists()]
    if not any(folder.glob("model*.safetensors")):
        missing.insert(0, "model.safetensors.index.json")
    if missing:
        raise CheckpointError(
            f"nano is not complete in this version: {', '.join(missing)} missing from its weights",
            "compile a checkpoint of your own, or see models/nano/README.md for how nano is trained",
        )
    backbone, vae = build_pair(read_state_dict(transformer), read_state_dict(others[0]), "nano")
    return LoadedModel(
        family="infinity",
        source="nano",
        sha256=file_digest([*_weight_files(transformer), *others]),
        backbone=backbone,
        vae=vae,
        patchify=backbone.config.code_bits != vae.config.bits,
        text=_fitting(WordText(read_state_dict(others[1]), "nano (text encoder)"), backbone, str(others[1])),
        defaults=Defaults(settings.GUIDANCE, settings.TEMPERATURE, settings.TOP_K, settings.TOP_P),
        default_resolution=settings.RESOLUTION,
        prompts=_nano_prompts(),
    )


def _nano_prompts() -> tuple[str, ...]:
    """Calibration prompts, evenly from all kinds; none of them is a prompt that the model is judged by."""
    from toprovar.evaluation.suites.shapes import CALIBRATION_PROMPTS

    return tuple(prompt.text for prompt in CALIBRATION_PROMPTS[:: len(CALIBRATION_PROMPTS) // settings.PROMPTS])


def _open_t5(folder: Path, backbone: Infinity) -> TextEncoder:
    return _fitting(T5Text(folder, backbone.config.text_max_tokens), backbone, str(folder))


def _fitting(text: TextEncoder, backbone: Infinity, source: str) -> TextEncoder:
    expected = backbone.config.text_channels
    if text.channels != expected:
        raise CheckpointError(
            f"{source}: a text encoder of {text.channels} channels; expected {expected}, which the transformer reads",
            "give the text encoder that the model was trained with",
        )
    return text


def build_pair(transformer: Mapping[str, Tensor], vae: Mapping[str, Tensor], source: str) -> tuple[Infinity, BSQVAE]:
    """Builds transformer and VAE from their tensors, which they take as they are: nothing is copied.

    Raises:
        CheckpointError: keys do not fit the architecture that the tensors suggest, a tensor is not finite,
            or the two do not belong together.
    """
    backbone, tokenizer = build_meta(
        {key: tuple(value.shape) for key, value in transformer.items()},
        {key: tuple(value.shape) for key, value in vae.items()},
        source,
    )
    load_strictly(backbone, transformer, f"{source} (transformer)")
    load_strictly(tokenizer, vae, f"{source} (VAE)")
    return backbone.eval(), tokenizer.eval()


def build_meta(transformer: _Shapes, vae: _Shapes, source: str) -> tuple[Infinity, BSQVAE]:
    """Builds the same pair from shapes alone, on the meta device.

    Raises:
        CheckpointError: the shapes are not those of an Infinity and its VAE.
    """
    bits = _code_bits(transformer, source)
    if not _belongs(vae, bits):
        found = f"one of {vae[_VAE_KEY][1]}" if _is_vae(vae) else "none"
        raise CheckpointError(
            f"{source}: expected {_expected(bits)}, found {found}",
            "give the VAE that the transformer was trained with: --vae FILE",
        )
    return (
        _build(lambda: Infinity(InfinityConfig.from_shapes(transformer)), f"{source} (transformer)"),
        _build(lambda: BSQVAE(VAEConfig.from_shapes(vae)), f"{source} (VAE)"),
    )


def _build(make: Callable[[], _Model], source: str) -> _Model:
    try:
        with shapes_only():
            return make()
    except KeyError as error:
        raise CheckpointError(
            f"{source}: holds no tensor {error}", "the file is incomplete: download it again"
        ) from error
    except (IndexError, ValueError, ZeroDivisionError, RuntimeError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(f"{source}: the tensors' shapes fit no model ({reason})", "download it again") from error


def _is_vae(shapes: _Shapes) -> bool:
    return len(shapes.get(_VAE_KEY, ())) == 4


def _belongs(vae: _Shapes, code_bits: int) -> bool:
    return _is_vae(vae) and vae[_VAE_KEY][1] in (code_bits, code_bits / 4)


def _expected(code_bits: int) -> str:
    patchified = f", or of {code_bits // 4} with spatial patchify" if code_bits % 4 == 0 else ""
    return f"a VAE of {code_bits} bits{patchified}"


def _code_bits(transformer: Mapping[str, Tensor] | _Shapes, source: str) -> int:
    """Bits of a token, from the tensors or the shapes of a transformer."""
    embedding = transformer.get(_TRANSFORMER_KEY)
    shape = tuple(embedding.shape) if isinstance(embedding, Tensor) else embedding
    if shape is not None and len(shape) == 2:
        return shape[1]
    if _VAE_KEY in transformer:
        raise CheckpointError(f"{source}: a VAE; expected a transformer", "give the VAE with --vae FILE")
    raise CheckpointError(
        f"{source}: not a checkpoint of Infinity: holds no matrix {_TRANSFORMER_KEY}",
        "give a transformer of the Infinity family",
    )


def _find_vae(path: Path, bits: int) -> Path:
    """The one VAE that fits, in the checkpoint's folder or, for a folder of shards, also beside it."""
    path = path.absolute()
    folders = [path, path.parent] if path.is_dir() else [path.parent]
    files = [
        file
        for folder in folders
        for file in sorted(folder.iterdir())
        if "vae" in file.name.lower() and file.suffix in _SUFFIXES and file.is_file() and file != path
    ]
    fitting, failures = [], []
    for file in files:
        try:
            shapes = {key: tuple(value.shape) for key, value in read_state_dict(file).items()}
        except CheckpointError as error:
            failures.append(error)
            continue
        if _belongs(shapes, bits):
            fitting.append(file)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting and failures:
        raise failures[0]
    where = " and ".join(map(str, folders))
    if fitting:
        found = f"found several: {', '.join(file.name for file in fitting)}"
    else:
        found = f"found none of that size, only {_names(files)}" if files else "found none"
    raise CheckpointError(
        f"no VAE for {path.name}: expected infinity_vae_d{bits}*.pth, or another file with vae in its name that "
        f"holds {_expected(bits)}, in {where}, {found}",
        "give it with --vae FILE",
    )


def _names(files: Iterable[Path]) -> str:
    return ", ".join(file.name for file in files)


def _weight_files(path: Path) -> list[Path]:
    """The files behind a checkpoint that has been read, in a fixed order."""
    if not path.is_dir():
        return [path]
    for name in ("model.safetensors.index.json", "pytorch_model.bin.index.json", "*.index.json"):
        for index in sorted(path.glob(name)):
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return [index, *(path / shard for shard in shards)]
    return [next(file for suffix in _SUFFIXES for file in sorted(path.glob(f"*{suffix}")))]
