"""The modules that a deployment consists of, with their contracts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from toprovar import signature
from toprovar.manifest import ModelRecord
from toprovar.models.loader import LoadedModel
from toprovar.models.step import Decode, Prompt, ScaleStep
from toprovar.signature import Signature

__all__ = ["build_modules"]


def build_modules(
    loaded: LoadedModel, record: ModelRecord, observers: Sequence[int]
) -> dict[str, tuple[nn.Module, Signature]]:
    """Every graph of a deployment as the module that defines it.

    Args:
        loaded: the model.
        record: its facts.
        observers: layers whose entropy the adaptive graph measures.

    Returns:
        ``text`` (if the model has a text encoder), ``prompt``, ``dense``, ``adaptive``, ``decode``.
    """
    layers = record.layers
    common = (loaded.backbone, loaded.patchify, record.guidance_layers)
    modules: dict[str, tuple[nn.Module, Signature]] = {}
    if loaded.text is not None:
        modules["text"] = loaded.text.module, signature.TEXT
    modules["prompt"] = Prompt(loaded.backbone), signature.prompt(layers)
    modules["dense"] = ScaleStep(*common), signature.step(layers, adaptive=False)
    adaptive = ScaleStep(*common, observers=observers, adaptive=True)
    modules["adaptive"] = adaptive, signature.step(layers, adaptive=True)
    modules["decode"] = Decode(loaded.vae), signature.DECODE
    return modules
