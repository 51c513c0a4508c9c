"""What an interrupted calibration has finished: one small file a prompt and pass, in a cache folder.

An entry is sealed with a hash over what it was measured for and its own content. Whatever does not bear that seal
(a truncated or changed file, one of another calibration) is removed, and its prompt is measured again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from toprovar import __version__
from toprovar.conform import to_plain
from toprovar.manifest import ModelRecord, SamplingDefaults

__all__ = ["Journal", "cache_folder", "fingerprint"]

_Entry = TypeVar("_Entry")

_FORMAT = 1
_SEAL = "seal"
_BYTES_AT_MOST = 256 << 20
"""No entry comes near this size: a larger file is something else."""


def fingerprint(
    model: ModelRecord,
    sampling: SamplingDefaults,
    schedule: Sequence[tuple[int, int]],
    prompts: Sequence[str],
    seed: int,
    others: Mapping[str, str],
) -> str:
    """Hash of everything that a calibration's result depends on.

    Args:
        model: facts of the model; where it was loaded from does not count.
        sampling: guidance and temperature.
        schedule: token grid of every scale.
        prompts: calibration prompts.
        seed: of the first prompt.
        others: what else the caller knows of, such as the version of PyTorch.
    """
    facts = {
        "format": _FORMAT,
        "toprovar": __version__,
        "model": to_plain(dataclasses.replace(model, source="")),
        "sampling": to_plain(sampling),
        "schedule": [list(grid) for grid in schedule],
        "prompts": list(prompts),
        "seed": seed,
        "others": dict(others),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def cache_folder() -> Path | None:
    """Where calibrations leave their journals: `$XDG_CACHE_HOME` or `~/.cache`; None without a home."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG Base Directory Specification has relative paths ignored.
    if os.path.isabs(named):
        return Path(named) / "toprovar" / "calibration"
    try:
        return Path.home() / ".cache" / "toprovar" / "calibration"
    except RuntimeError:
        return None


class Journal:
    """The entries of one calibration: frozen dataclasses of NumPy arrays and floats.

    A folder that cannot be written stops nothing: a remark says so once, and nothing more is written.

    Args:
        folder: holds the journals, each in a folder named after its fingerprint; None keeps nothing.
        fingerprint: of the calibration (`fingerprint`).
        remark: told one line for the user.
    """

    def __init__(self, folder: Path | None, fingerprint: str, remark: Callable[[str], None]) -> None:
        self.folder = folder / fingerprint if folder else None
        self.remark = remark
        self._fingerprint = fingerprint
        self._writes = folder is not None

    def load(self, kind: type[_Entry], index: int, basis: str = "") -> _Entry | None:
        """Reads an entry; None where there is none, or none that can be trusted.

        Args:
            kind: the entry's class.
            index: of its prompt.
            basis: what else it was measured with; must be what it was stored with.
        """
        if self.folder is None:
            return None
        path = self.folder / _name(kind, index)
        try:
            arrays = _read(path)
        except FileNotFoundError:
            return None
        # What a damaged file makes the parser raise is not documented, and it is removed whatever the reason.
        except Exception:
            arrays = {}
        seal = arrays.pop(_SEAL, None)
        if seal is None or seal.tobytes() != self._seal(kind, index, basis, arrays):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return kind(**{name: array if array.ndim else array.item() for name, array in arrays.items()})

    def store(self, entry: Any, index: int, basis: str = "") -> None:
        """Writes an entry so that a reader sees all of it or nothing."""
        if self.folder is None or not self._writes:
            return
        fields = dataclasses.fields(entry)
        arrays = {field.name: np.array(getattr(entry, field.name), order="C") for field in fields}
        seal = np.frombuffer(self._seal(type(entry), index, basis, arrays), np.uint8)
        path = self.folder / _name(type(entry), index)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Not forced to the disk: what a crash leaves incomplete has no seal.
            temporary.write_bytes(save({**arrays, _SEAL: seal}))
            os.replace(temporary, path)
        except OSError as error:
            self._writes = False
            self.remark(
                f"calibration cannot be resumed if interrupted: {self.folder} cannot be written "
                f"({error.strerror or error}); XDG_CACHE_HOME may name another cache folder"
            )
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes the folder: its entries have served."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _seal(self, kind: Any, index: int, basis: str, arrays: Mapping[str, np.ndarray]) -> bytes:
        fields = [field.name for field in dataclasses.fields(kind)]
        facts: list[object] = [self._fingerprint, kind.__name__, fields, index, basis]
        facts += [(name, arrays[name].dtype.str, arrays[name].shape) for name in sorted(arrays)]
        seal = hashlib.sha256(json.dumps(facts).encode())
        for name in sorted(arrays):
            seal.update(arrays[name].tobytes())
        return seal.digest()


def _name(kind: type, index: int) -> str:
    return f"{kind.__name__.lower()}-{index:06}.safetensors"


def _read(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file, in memory: one that is mapped could shrink while it is read."""
    with path.open("rb") as file:
        content = file.read(_BYTES_AT_MOST + 1)
    if len(content) > _BYTES_AT_MOST:
        raise SafetensorError("too large")
    return dict(load(content))
