"""Compiled kernels in a deployment: Triton finds them there after its own cache, and writes nothing to it.

Of a kernel, the code for the GPU and its description are kept. The stub that launches it is code for the host, which a
deployment must not bring: Triton compiles it where it runs, once a machine, into its own cache.
"""

from __future__ import annotations

import ctypes
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton
from triton.runtime.cache import FileCacheManager

from toprovar.console import remark_once
from toprovar.deployment import Deployment
from toprovar.kernels import KERNELS, Kernels

__all__ = ["offer_kernels", "recorded_kernels", "save_kernels", "this_machine"]

_SUFFIXES = (".json", ".cubin")

_offered: list[Path] = []
_recordings: list[dict[str, dict[str, str]]] = []


class _CacheManager(FileCacheManager):
    """Triton's cache, then the deployments that were opened."""

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        super().__init__(key, override, dump)
        self._own = not (override or dump)

    def get_group(self, filename: str) -> dict[str, str] | None:
        """Paths of a kernel's files by name; None where nobody has it."""
        found: dict[str, str] | None = super().get_group(filename)
        if not self._own:
            return found
        for folder in _offered:
            if found is None and (folder / self.key / filename).is_file():
                found = {path.name: str(path) for path in (folder / self.key).iterdir()}
        self._note(found)
        return found

    def put_group(self, filename: str, group: dict[str, str]) -> str:
        """Notes a kernel that was compiled."""
        if self._own:
            self._note(group)
        path: str = super().put_group(filename, group)
        return path

    def _note(self, group: dict[str, str] | None) -> None:
        if group:
            for recording in _recordings:
                recording[self.key] = group


def this_machine() -> Kernels:
    """What kernels that are compiled here are for."""
    major, minor = torch.cuda.get_device_capability()
    driver = ctypes.c_int()
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(driver))
    return Kernels(
        torch.cuda.get_device_name(),
        f"{major}.{minor}",
        torch.__version__,
        triton.__version__,
        f"{driver.value // 1000}.{driver.value % 1000 // 10}",
    )


def offer_kernels(deployment: Deployment) -> None:
    """Lets Triton use a deployment's kernels; where they are for something else, a remark says so."""
    if KERNELS not in deployment.manifest.files:
        return
    differences = Kernels.load(deployment.path(KERNELS)).differences(this_machine())
    if differences:
        remark_once(f"kernels are compiled anew: those of the deployment are for {differences} here")
        return
    folder = deployment.path(KERNELS).parent
    if folder not in _offered and _install():
        _offered.append(folder)


@contextmanager
def recorded_kernels() -> Iterator[dict[str, dict[str, str]]]:
    """Notes every kernel that is compiled or read within: paths of its files by name, by Triton's key.

    What this process has loaded before is not seen.
    """
    recording: dict[str, dict[str, str]] = {}
    if _install():
        _recordings.append(recording)
    try:
        yield recording
    finally:
        _recordings[:] = [one for one in _recordings if one is not recording]


def save_kernels(recording: dict[str, dict[str, str]], target: Path) -> Kernels:
    """Writes kernels into a deployment.

    Args:
        recording: of `recorded_kernels`.
        target: the deployment's folder.
    """
    folder = (target / KERNELS).parent
    for key, group in recording.items():
        (folder / key).mkdir(parents=True)
        for name, path in group.items():
            if name.endswith(_SUFFIXES):
                shutil.copyfile(path, folder / key / name)
    folder.mkdir(exist_ok=True)
    kernels = this_machine()
    kernels.save(target / KERNELS)
    return kernels


def _install() -> bool:
    """Puts our manager in the place of Triton's; a user's own stays, with a remark."""
    knobs: Any = triton.knobs.cache
    if knobs.manager_class is None:
        knobs.manager_class = _CacheManager
    if knobs.manager_class is not _CacheManager:
        remark_once("TRITON_CACHE_MANAGER is set, so kernels are neither read from a deployment nor stored in one")
        return False
    return True
