"""Which optional extra installs a module, read from the installed package's own metadata."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from toprovar.errors import MissingExtra

__all__ = ["Requirement", "naming_extras", "require", "requirements"]

_OTHER_NAMES = {"PIL": "pillow"}
"""Modules whose distribution has another name."""


@dataclass(frozen=True)
class Requirement:
    """A distribution that this project may use.

    Attributes:
        distribution: Its normalised name.
        least: Lowest version that will do.
        extra: The extra that installs it; None for a base dependency.
    """

    distribution: str
    least: str
    extra: str | None


@functools.cache
def requirements() -> tuple[Requirement, ...]:
    """The requirements that hold on this platform, without those of `dev`."""
    try:
        lines = importlib.metadata.requires("toprovar") or []
    except importlib.metadata.PackageNotFoundError:
        # The source tree, used without having been installed.
        return ()
    found = []
    for line in lines:
        specifier, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", specifier)
        least = re.search(r">=\s*([\w.]+)", specifier)
        extra = re.search(r"""extra\s*==\s*["']([\w.-]+)["']""", marker)
        platform = re.search(r"""sys_platform\s*==\s*["'](\w+)["']""", marker)
        if name is None or least is None or (extra and extra[1] == "dev"):
            continue
        if platform is None or platform[1] == sys.platform:
            found.append(Requirement(_normalised(name[0]), least[1], extra[1] if extra else None))
    return tuple(found)


def require(module: str, extra: str) -> ModuleType:
    """Imports a module of an extra.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name != top:
            raise
        raise MissingExtra(top, extra) from error


@contextlib.contextmanager
def naming_extras() -> Iterator[None]:
    """Turns the failed import of an extra's module within the block into `MissingExtra`.

    An import that fails for another reason is a bug and passes through.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # With a dot in it, the package is there and lacks a part: an incompatible version, or a bug.
        module = error.name or ""
        distribution = _normalised(_OTHER_NAMES.get(module, module))
        for requirement in requirements():
            if requirement.distribution == distribution and requirement.extra is not None:
                raise MissingExtra(module, requirement.extra) from error
        raise


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
