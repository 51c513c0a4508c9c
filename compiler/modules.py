"""The modules that a deployment consists of, with their contracts."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from toprovar import signature
from toprovar.manifest import ModelRecord
from toprovar.models.loader import LoadedModel
from toprovar.models.step import Decode, Prompt, ScaleStep
from toprovar.pruning import Pruning
from toprovar.signature import Signature

__all__ = ["build_modules"]


def build_modules(loaded: LoadedModel, record: ModelRecord, pruning: Pruning) -> dict[str, tuple[nn.Module, Signature]]:
    """Every graph of a deployment as the module that defines it.

    Args:
        loaded: the model.
        record: its facts.
        pruning: what the plan fixes of the graphs.

    Returns:
        ``text`` (if the model has a text encoder), ``prompt``, ``dense``, ``adaptive``, ``decode``.
    """
    loaded.to(torch.device("cpu"))  # a calibration on a GPU leaves them there
    layers = record.layers
    common = (loaded.backbone, loaded.patchify, record.guidance_layers)
    modules: dict[str, tuple[nn.Module, Signature]] = {}
    if loaded.text is not None:
        modules["text"] = loaded.text.module, signature.TEXT
    modules["prompt"] = Prompt(loaded.backbone), signature.prompt(layers)
    # The dense step observes nothing: its entropies are nobody's.
    plain = dataclasses.replace(pruning, observers=())
    for name, step in (("dense", ScaleStep(*common, plain)), ("adaptive", ScaleStep(*common, pruning, adaptive=True))):
        modules[name] = step, step.signature
    modules["decode"] = Decode(loaded.vae), signature.DECODE
    return modules
