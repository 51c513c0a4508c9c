"""Writing a deployment folder whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from toprovar.deployment import MANIFEST, Deployment, file_sha256
from toprovar.errors import UsageError
from toprovar.jsonfile import cannot_write, is_disk_full
from toprovar.manifest import FORMAT, Manifest

__all__ = ["DeploymentWriter"]

_WRITTEN_LATER = ("engines", "report")
"""Folders of a deployment that may hold more than its manifest lists."""

_OWN_RECORD = "engines"
"""A folder that keeps hashes of its own, since it is written anew wherever its engines are to run."""


class DeploymentWriter:
    """Collects a deployment in a temporary folder beside its target, then renames it.

    Within the `with` block, files are written under `folder` and `manifest` is set. When the
    block ends without an exception, hashes are added to the manifest and the target appears at
    once, complete and on the disk; after any exception nothing is left.

    Args:
        target: The deployment's folder. It must not exist, unless `force` is set.
        force: Whether to replace a target that is a deployment or an empty folder. Anything else
            is never deleted.

    Attributes:
        folder: Where to write.
        manifest: What to write into the manifest; its `files` are filled in at the end.
    """

    def __init__(self, target: str | Path, force: bool = False) -> None:
        # A link is followed, so that the folder behind it is replaced rather than the link.
        self.target = Path(os.path.realpath(target))
        self.force = force
        self.manifest: Manifest | None = None
        self.folder = self._sibling("partial")

    def __enter__(self) -> Self:
        """Makes the temporary folder.

        Raises:
            UsageError: The target exists and may not be replaced.
            ArtefactError: The temporary folder cannot be made.
        """
        self._check_target()
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir()
        except OSError as error:
            raise cannot_write(self.target, error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Publishes the folder, or removes it when something failed.

        Raises:
            ArtefactError: The disk is full, the target cannot be written, or what was written is no
                deployment.
        """
        try:
            if error is None:
                self._publish()
            elif is_disk_full(error):
                raise cannot_write(self.target, error) from error
        except OSError as failure:
            raise cannot_write(self.target, failure) from failure
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _publish(self) -> None:
        if self.manifest is None:
            raise RuntimeError("DeploymentWriter.manifest was not set")
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        names = {path.relative_to(self.folder).as_posix(): path for path in files}
        hashes = {name: file_sha256(path) for name, path in names.items() if not name.startswith(f"{_OWN_RECORD}/")}
        dataclasses.replace(self.manifest, files=hashes).save(self.folder / MANIFEST)
        # What is published opens; its hashes were made just now.
        Deployment.open(self.folder, check_hashes=False)
        for path in (*files, *(path for path in self.folder.rglob("*") if path.is_dir())):
            _sync(path)
        _sync(self.folder)
        self._check_target()
        replaced = self._sibling("replaced") if self.target.exists() else None
        if replaced is not None:
            os.rename(self.target, replaced)
        try:
            os.rename(self.folder, self.target)
        except BaseException:
            if replaced is not None:
                os.rename(replaced, self.target)
            raise
        _sync(self.target.parent)
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)

    def _check_target(self) -> None:
        if not os.path.lexists(self.target):
            return
        if not self.force:
            raise UsageError(f"{self.target} exists; expected a new folder", "--force replaces a deployment")
        reason = _why_not_ours(self.target)
        if reason is not None:
            raise UsageError(
                f"{self.target} {reason}; expected a deployment or an empty folder to replace",
                "choose another folder, or remove this one yourself",
            )

    def _sibling(self, role: str) -> Path:
        # Process numbers repeat from container to container, hence the random part.
        suffix = f"{role}-{os.getpid()}-{secrets.token_hex(3)}"
        return self.target.with_name(f".{self.target.name or 'root'}.{suffix}")


def _why_not_ours(folder: Path) -> str | None:
    """Why a target may not be deleted; None when all of it is a deployment's or it is empty."""
    if not folder.is_dir():
        return "is not a folder"
    files = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    if not any(folder.iterdir()):
        return None
    listed: object = None
    # Another version's manifest will do, hence no strict loading.
    with contextlib.suppress(OSError, ValueError, RecursionError):
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(manifest, dict) and manifest.get("format") == FORMAT:
            listed = manifest.get("files")
    if not isinstance(listed, dict):
        return "is not a deployment"
    for path in files:
        name = path.relative_to(folder).as_posix()
        known = name == MANIFEST or name in listed or name.partition("/")[0] in _WRITTEN_LATER
        if not known:
            return f"holds {name}, which its manifest does not list"
    return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
