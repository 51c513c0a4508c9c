"""The tables that travel with a deployment's graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from toprovar.errors import ArtefactError

__all__ = ["load_constants", "save_constants"]

_FILE = "constants.safetensors"


def save_constants(folder: Path, constants: Mapping[str, np.ndarray]) -> None:
    """Writes ``constants.safetensors`` into a deployment's ``graphs`` folder."""
    save_file({name: np.ascontiguousarray(value) for name, value in constants.items()}, folder / _FILE)


def load_constants(folder: Path) -> dict[str, np.ndarray]:
    """Reads them back.

    Raises:
        ArtefactError: the file is missing or damaged.
    """
    try:
        return load_file(folder / _FILE)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(f"cannot be read ({error})", "compile the model again", file=_FILE) from error
