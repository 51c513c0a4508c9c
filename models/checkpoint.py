"""Reading checkpoints: one file, a folder of shards, or weights nested inside a training state.

Nothing is ever unpickled but tensors (``weights_only=True``).
"""

from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from toprovar.errors import CheckpointError

__all__ = ["file_digest", "load_strictly", "read_state_dict"]

_NESTS = ("trainer", "gpt_fsdp", "gpt_ema_fsdp", "vae", "ema", "state_dict", "model", "module")
"""Keys under which training code keeps a state dict, tried in this order at every depth."""

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint, memory-mapped where the format allows.

    Args:
        path: a .pth, .pt, .bin or .safetensors file, or a folder with an index and shards, or with one
            such file.

    Returns:
        Tensors by their key, without the nesting of training states.

    Raises:
        CheckpointError: nothing there, unreadable, not only tensors, or no tensors at all.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such checkpoint", hint="give a .pth, .pt or .safetensors file, a folder of shards, or nano"
        )
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path}: the file is empty", hint="download it again")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_torch(path)


def _read_folder(folder: Path) -> dict[str, Tensor]:
    index = next((folder / name for name in _INDEXES if (folder / name).exists()), None)
    if index is None:
        index = next(iter(sorted(folder.glob("*.index.json"))), None)
    if index is None:
        files = [file for suffix in ("safetensors", "pth", "pt", "bin") for file in sorted(folder.glob(f"*.{suffix}"))]
        if len(files) != 1:
            found = ", ".join(file.name for file in files) or "none"
            raise CheckpointError(
                f"{folder}: expected an index (*.index.json) or exactly one weight file, found {found}",
                hint="name the file itself",
            )
        return read_state_dict(files[0])
    try:
        shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{index}: not an index of shards ({error})", hint="download it again") from error
    state: dict[str, Tensor] = {}
    for shard in shards:
        file = folder / str(shard)
        if file.parent.resolve() != folder.resolve():
            raise CheckpointError(f"{index}: names {shard!r}, which is outside the folder", hint="download it again")
        if not file.exists():
            raise CheckpointError(f"{index}: the shard {shard} is missing", hint=f"download it into {folder}")
        state.update(read_state_dict(file))
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})", hint="download it again") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: holds more than tensors, or is no checkpoint; refused, because loading it could run code",
            hint="save the state dict alone (torch.save(model.state_dict(), ...)) or convert it to safetensors",
        ) from error
    except Exception as error:  # damaged bytes make the unpickler raise almost anything
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason})", hint="download it again") from error
    return _unnest(content, path)


def _unnest(content: object, path: Path) -> dict[str, Tensor]:
    for _ in range(4):
        if not isinstance(content, Mapping):
            break
        tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return {str(key): value for key, value in tensors.items()}
        inner = next((content[key] for key in _NESTS if key in content), None)
        if inner is None:
            break
        content = inner
    raise CheckpointError(
        f"{path}: no tensors found at the top or under {', '.join(_NESTS)}", hint="give the model's own weight file"
    )


def load_strictly(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Loads `state` into `model`; parameters of a meta model take the file's tensors as they are, in fp32.

    Raises:
        CheckpointError: a key is missing, unexpected or of another shape or type, or a tensor is not finite; the
            first few are named.
    """
    tensors = model.state_dict()
    own = {key: tuple(value.shape) for key, value in tensors.items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    problems = [
        _listing("missing", [key for key in own if key not in given]),
        _listing("unexpected", [key for key in given if key not in own]),
        _listing(
            "of another shape",
            [f"{key} {given[key]} instead of {own[key]}" for key in own if key in given and given[key] != own[key]],
        ),
        _listing(
            "of another type",
            [
                f"{key} {state[key].dtype} instead of {tensors[key].dtype}"
                for key in own
                if key in given and state[key].is_floating_point() != tensors[key].is_floating_point()
            ],
        ),
    ]
    if any(problems):
        raise CheckpointError(
            f"{source}: not a checkpoint of {type(model).__name__}: {'; '.join(filter(None, problems))}",
            hint="check that transformer and VAE were not exchanged and that the file is complete",
        )
    floating = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    bad = [key for key, value in floating.items() if value.is_floating_point() and not _is_finite(value)]
    if bad:
        raise CheckpointError(
            f"{source}: {_listing('not finite (NaN or infinity)', bad)}", hint="the file is damaged: download it again"
        )
    model.load_state_dict(floating, strict=True, assign=True)
    model.requires_grad_(False)


def _is_finite(value: Tensor) -> bool:
    """In one pass without temporary tensors: extremes of what is not finite are not finite."""
    return value.numel() == 0 or bool(torch.stack(value.aminmax()).isfinite().all())


def _listing(what: str, keys: list[str], most: int = 4) -> str:
    if not keys:
        return ""
    shown = ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
    return f"{len(keys)} keys {what}: {shown}"


def file_digest(paths: list[Path]) -> str:
    """SHA-256 over the contents of files, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
