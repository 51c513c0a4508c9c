"""Putting a report into its deployment: the old one stays whole until the new one is, and the deployment opens."""

from __future__ import annotations

import dataclasses
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from toprovar.deployment import MANIFEST
from toprovar.jsonfile import cannot_write
from toprovar.manifest import Manifest

__all__ = ["FIGURES", "PAGE", "publish"]

FOLDER, PAGE, FIGURES = "report", "index.html", "figures"


def publish(deployment: Path, page: str, pictures: Mapping[str, bytes]) -> Path:
    """Writes page and pictures, replacing those of an earlier report.

    They are written aside first and then renamed into place. The manifest does not list them, since a deployment must
    open whatever becomes of its report; one that does is told before anything is replaced.

    Args:
        deployment: Its folder.
        page: The page.
        pictures: PNG files by name.

    Returns:
        The page's path.

    Raises:
        ArtefactError: The disk is full or the folder cannot be written; an older report is then untouched.
    """
    folder = deployment / FOLDER
    partial = folder / f".report.partial-{os.getpid()}-{secrets.token_hex(3)}"
    try:
        (partial / FIGURES).mkdir(parents=True)
        for name, png in pictures.items():
            _write(partial / FIGURES / f"{name}.png", png)
        _write(partial / PAGE, page.encode("utf-8"))
        _unlist(deployment)
        _swap(partial, folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder / PAGE


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _unlist(deployment: Path) -> None:
    manifest = Manifest.load(deployment / MANIFEST)
    others = {
        name: digest
        for name, digest in manifest.files.items()
        if name != f"{FOLDER}/{PAGE}" and not name.startswith(f"{FOLDER}/{FIGURES}/")
    }
    if len(others) < len(manifest.files):
        dataclasses.replace(manifest, files=others).save(deployment / MANIFEST)


def _swap(partial: Path, folder: Path) -> None:
    """The page goes last: it holds its pictures, so that it is whole by itself at any time."""
    old = partial / "replaced"
    try:
        if (folder / FIGURES).exists():
            os.rename(folder / FIGURES, old)
        os.rename(partial / FIGURES, folder / FIGURES)
        os.replace(partial / PAGE, folder / PAGE)
    except BaseException:
        if not (partial / FIGURES).exists():
            os.rename(folder / FIGURES, partial / FIGURES)
        if old.exists():
            os.rename(old, folder / FIGURES)
        raise
