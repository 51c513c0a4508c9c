"""What this machine can do: facts for `toprovar doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from dataclasses import dataclass

from toprovar.errors import ToProVARError
from toprovar.extensions import BACKENDS
from toprovar.extras import requirements
from toprovar.machine import usable_cores

__all__ = ["Ability", "Diagnosis", "Extra", "Package", "diagnose"]


@dataclass(frozen=True)
class Package:
    """A distribution that this project may use.

    Attributes:
        name: Its name.
        least: Lowest version that will do.
        installed: Installed version; None where it is missing.
    """

    name: str
    least: str
    installed: str | None

    @property
    def suffices(self) -> bool:
        """Whether a version that will do is installed."""
        return self.installed is not None and _release(self.installed) >= _release(self.least)


@dataclass(frozen=True)
class Extra:
    """An optional extra.

    Attributes:
        name: Its name.
        lacking: Distributions that are missing or too old.
        remedy: How to install them; None where nothing lacks.
    """

    name: str
    lacking: tuple[str, ...]
    remedy: str | None


@dataclass(frozen=True)
class Ability:
    """What a backend can do here.

    Attributes:
        backend: Its name.
        works: Whether it can run.
        detail: Where it would run, or why it cannot.
        remedy: How to mend it; None where it works or cannot be mended.
    """

    backend: str
    works: bool
    detail: str
    remedy: str | None


@dataclass(frozen=True)
class Diagnosis:
    """Everything about this machine.

    Attributes:
        toprovar: This project's version.
        python: Python's version.
        platform: Operating system and machine.
        cores: Processor cores that this process may use.
        memory_bytes: Main memory; None where the system does not say.
        packages: Every distribution that may be used.
        extras: Every optional extra.
        gpus: GPUs that torch sees, with their memory.
        providers: ONNX Runtime's execution providers.
        backends: Every backend.
    """

    toprovar: str
    python: str
    platform: str
    cores: int
    memory_bytes: int | None
    packages: tuple[Package, ...]
    extras: tuple[Extra, ...]
    gpus: tuple[str, ...]
    providers: tuple[str, ...]
    backends: tuple[Ability, ...]


def diagnose() -> Diagnosis:
    """Looks at this machine; nothing is built, and no model is loaded."""
    from toprovar import __version__

    needed = {(entry.distribution, entry.least) for entry in requirements()}
    packages = {name: Package(name, least, _installed(name)) for name, least in sorted(needed)}
    return Diagnosis(
        toprovar=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        cores=usable_cores(),
        memory_bytes=_memory_bytes(),
        packages=tuple(packages.values()),
        extras=_extras(packages),
        gpus=_gpus(),
        providers=_providers(),
        backends=_backends(),
    )


def _extras(packages: dict[str, Package]) -> tuple[Extra, ...]:
    wanted: dict[str, list[str]] = {}
    for entry in requirements():
        if entry.extra is not None:
            wanted.setdefault(entry.extra, []).append(entry.distribution)
    extras = []
    for extra, names in wanted.items():
        lacking = tuple(name for name in names if not packages[name].suffices)
        remedy = f'pip install "toprovar[{extra}]"' if lacking else None
        extras.append(Extra(extra, lacking, remedy))
    return tuple(extras)


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `(2, 9)` of `2.9rc1`."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _gpus() -> tuple[str, ...]:
    try:
        import torch
    except ImportError:
        return ()
    return tuple(
        f"{properties.name}, {properties.total_memory >> 30} GiB, "
        f"compute capability {properties.major}.{properties.minor}"
        for properties in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    )


def _providers() -> tuple[str, ...]:
    try:
        import onnxruntime
    except ImportError:
        return ()
    return tuple(onnxruntime.get_available_providers())


def _backends() -> tuple[Ability, ...]:
    abilities = []
    for name in BACKENDS.names():
        try:
            # Says where the backend would run, or raises what is in the way and how to mend it.
            detail = BACKENDS.load(name).check_available()
        except ToProVARError as error:
            abilities.append(Ability(name, False, error.message, error.hint))
        else:
            abilities.append(Ability(name, True, detail, None))
    return tuple(abilities)
