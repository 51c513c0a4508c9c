"""The manifest: what a deployment folder holds and what made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Literal

from toprovar.artefact import (
    Artefact,
    Count,
    Fraction,
    Index,
    NonNegative,
    Positive,
    Sha256,
    require_length,
)
from toprovar.conform import Pattern, refuse

__all__ = ["FORMAT", "Manifest", "ModelRecord", "Precision", "SamplingDefaults", "TextRecord"]

FORMAT = "toprovar-deployment"

Precision = Literal["fp32", "bf16", "fp8"]
"""Of weights, cache and activations; ``fp8`` rounds the operands of the large products and leaves the rest in bf16."""

Name = Annotated[str, Pattern(r"\S(.*\S)?", "a name")]


@dataclass(frozen=True)
class ModelRecord(Artefact):
    """The model that was compiled.

    Attributes:
        family: The backbone's name, such as `infinity`.
        source: Where the checkpoint came from, for the record.
        sha256: Hash of the checkpoint.
        layers: Transformer layers.
        heads: Attention heads of a layer.
        head_dim: Channels of a head.
        width: Channels of the residual stream.
        code_bits: Bits of a token's code.
        patchify: Whether a token is a 2 x 2 patch of codes.
        guidance_layers: Layers after whose output guidance is applied; `layers` stands for the logits.
        latent_height: Rows of the summed codes that the decoder sees.
        latent_width: Columns of the same.
        image_height: Rows of pixels.
        image_width: Columns of pixels.
    """

    family: Name
    source: str
    sha256: Sha256
    layers: Count
    heads: Count
    head_dim: Count
    width: Count
    code_bits: Count
    patchify: bool
    guidance_layers: tuple[Index, ...]
    latent_height: Count
    latent_width: Count
    image_height: Count
    image_width: Count


@dataclass(frozen=True)
class SamplingDefaults(Artefact):
    """How to sample unless a call says otherwise.

    Attributes:
        guidance: Classifier-free guidance scale by scale; 1 is none.
        temperature: The logits' temperature (tau) by scale.
        top_k: Number of most likely codes to sample from; 0 for all.
        top_p: Probability mass to sample from; 0 or 1 for all.
    """

    guidance: tuple[NonNegative, ...]
    temperature: tuple[Positive, ...]
    top_k: Index
    top_p: Fraction

    def validate(self) -> None:
        """Checks that both lists cover the same scales."""
        require_length(self.temperature, len(self.guidance), "scale", "temperature")


@dataclass(frozen=True)
class TextRecord(Artefact):
    """How a prompt becomes the model's condition.

    Attributes:
        kind: `words` for the vocabulary in the deployment, `t5` for a T5 encoder beside it,
            `features` where the caller gives the encoder's output.
        channels: Channels of a text token.
        max_tokens: Text tokens at most.
        source: Folder of the encoder, for backends that load it themselves; None where the model brings its own, or
            has none.
    """

    kind: Literal["words", "t5", "features"]
    channels: Count
    max_tokens: Count
    source: str | None = None


@dataclass(frozen=True)
class Manifest(Artefact):
    """The deployment's table of contents.

    Attributes:
        toprovar_version: Version that compiled it.
        backend: Backend that it was compiled for.
        precision: What the backend computes in unless a call says otherwise; None leaves it to the backend.
        model: The model.
        sampling: Sampling defaults.
        text: How prompts are encoded.
        gpu: GPU that it was compiled on and for; None where the folder is portable.
        versions: Versions of the packages that compiled it.
        files: Hash of every other file, by its path relative to the folder, with `/`.
    """

    schema_version: Literal[1] = field(default=1, kw_only=True)
    format: Literal["toprovar-deployment"] = field(default="toprovar-deployment", kw_only=True)
    toprovar_version: Name
    backend: Name
    precision: Precision | None
    model: ModelRecord
    sampling: SamplingDefaults
    text: TextRecord
    gpu: str | None
    versions: Mapping[str, str]
    files: Mapping[str, Sha256]

    def validate(self) -> None:
        """Checks that every path stays inside the folder."""
        for path in self.files:
            parts = PurePosixPath(path).parts
            inside = (
                path == "/".join(parts)
                and path not in ("", ".", "manifest.json")
                and ".." not in parts
                and "\\" not in path
                and "\0" not in path
                and not PurePosixPath(path).is_absolute()
                and not PureWindowsPath(path).drive
            )
            if not inside:
                raise refuse("files", "relative paths inside the folder", path)
