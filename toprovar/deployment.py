"""Opening a deployment folder, with its hashes checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from toprovar.errors import ArtefactError
from toprovar.manifest import Manifest
from toprovar.plan import SparsityPlan

__all__ = ["MANIFEST", "PLAN", "Deployment", "file_sha256"]

MANIFEST = "manifest.json"
PLAN = "plan.json"
_REMEDY = "copy the folder again, or compile the model again with toprovar-compile"


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Deployment:
    """A compiled model on disk.

    Attributes:
        folder: The folder.
        manifest: Its table of contents.
        plan: What it computes.
    """

    folder: Path
    manifest: Manifest
    plan: SparsityPlan

    @classmethod
    def open(cls, folder: str | Path, check_hashes: bool = True) -> Self:
        """Opens a deployment.

        Args:
            folder: The folder that `toprovar-compile` wrote.
            check_hashes: Whether to read every file and compare its hash.

        Raises:
            ArtefactError: No deployment is there, or a file of it is missing, changed, outside
                the folder or at odds with the others.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            problem = "no such folder" if not folder.is_dir() else f"holds no {MANIFEST}"
            raise ArtefactError(f"{problem}; expected a folder that toprovar-compile wrote", file=str(folder))
        manifest = Manifest.load(folder / MANIFEST)
        if PLAN not in manifest.files:
            raise ArtefactError(f"does not list {PLAN}", _REMEDY, file=MANIFEST)
        paths = {name: _locate(folder, name) for name in manifest.files}
        plan = SparsityPlan.load(paths[PLAN])
        _check_agreement(manifest, plan)
        for name, path in paths.items():
            if check_hashes and file_sha256(path) != manifest.files[name]:
                raise ArtefactError(
                    f"changed since it was compiled; expected the content whose hash is in {MANIFEST}",
                    _REMEDY,
                    file=name,
                )
        return cls(folder, manifest, plan)

    def path(self, name: str) -> Path:
        """The path of one of the deployment's files.

        Args:
            name: Its path in the manifest, such as `graphs/decoder.onnx`.

        Raises:
            ArtefactError: The manifest does not list the file, or it is missing, or it is a link
                out of the folder.
        """
        if name not in self.manifest.files:
            raise ArtefactError(f"lists no file {name!r}", _REMEDY, file=MANIFEST)
        return _locate(self.folder, name)


def _locate(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise ArtefactError(f"missing from {folder}", _REMEDY, file=name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtefactError(f"leads out of {folder}", _REMEDY, file=name)
    return path


def _check_agreement(manifest: Manifest, plan: SparsityPlan) -> None:
    model, scales = manifest.model, len(plan.scales)
    heads = plan.ranking.heads
    pairs = (
        ("model_sha256", plan.model_sha256, model.sha256),
        ("number of layers", plan.layers, model.layers),
        ("number of heads", model.heads if heads is None else heads, model.heads),
        ("number of scales", scales, len(manifest.sampling.guidance)),
    )
    for field, planned, compiled in pairs:
        if planned != compiled:
            raise ArtefactError(
                f"expected {compiled}, as in {MANIFEST}, got {planned}",
                _REMEDY,
                field=field,
                file=PLAN,
            )
