"""Whether the runtime can run a model here, and how: what a user asked for as the runtime's own options."""

from __future__ import annotations

import importlib.util

import torch

from toprovar.console import remark_once
from toprovar.manifest import Precision
from toprovar.models.tensors import PackedDecoder, PackedTransformer
from toprovar.plugins.fae.schema import HEAD_DIMS
from toprovar.runtime.backends.base import EngineOptions
from toprovar.runtime.cuda.options import RuntimeOptions

__all__ = ["choose_runtime", "fp8_obstacle", "obstacles"]


def choose_runtime(
    backbone: object, vae: object, device: torch.device, asked: EngineOptions, recorded: Precision | None
) -> RuntimeOptions | None:
    """How the runtime is to work; None for the model's own modules, with a remark where that is not as asked.

    Args:
        backbone: the transformer.
        vae: the image tokenizer.
        device: where to run.
        asked: what the user asks for.
        recorded: the deployment's precision.
    """
    if asked.reference:
        return None
    precision = asked.precision or recorded
    if device.type != "cuda":
        if precision not in (None, "fp32") or asked.low_vram:
            what = f"in {precision}" if precision is not None else "with --low-vram"
            remark_once(f"PyTorch sees no NVIDIA GPU, so nothing runs {what}: running the model's own modules in fp32")
        return None
    problems = obstacles(backbone, vae, device)
    if problems:
        remark_once(f"the CUDA runtime cannot run this model ({'; '.join(problems)}): running its own modules in fp32")
        return None
    return RuntimeOptions(precision or "bf16", low_vram=asked.low_vram)


def obstacles(backbone: object, vae: object, device: torch.device) -> list[str]:
    """Why the runtime cannot run a model on an NVIDIA GPU; empty where it can."""
    problems = []
    if not isinstance(backbone, PackedTransformer) or not isinstance(vae, PackedDecoder):
        problems.append("its family offers no tensors to kernels of ours")
    elif backbone.config.head_dim not in HEAD_DIMS:
        taken = ", ".join(map(str, HEAD_DIMS))
        problems.append(f"heads of {backbone.config.head_dim} channels, it takes {taken}")
    if importlib.util.find_spec("triton") is None:
        problems.append("Triton is not installed")
    if torch.cuda.get_device_capability(device) < (8, 0):
        problems.append("the GPU has no bf16")
    return problems


def fp8_obstacle(width: int, hidden: int, device: torch.device) -> str | None:
    """Why products cannot be in fp8; None where they can.

    Args:
        width: channels of the residual stream.
        hidden: channels of the MLP.
        device: where; a CPU computes them in plain torch.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device)
        return f"{name} has no fp8 products; expected compute capability 8.9 or later"
    if width % 16 or hidden % 16:
        return f"a model {width} and {hidden} channels wide in fp8; expected multiples of 16"
    return None
