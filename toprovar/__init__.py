"""ToProVAR: compiles and prunes next-scale image generators.

The public names are imported when they are first used, so that `import toprovar` needs nothing
beyond the standard library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toprovar.errors import ToProVARError as ToProVARError
    from toprovar.manifest import Manifest as Manifest
    from toprovar.plan import SparsityPlan as SparsityPlan
    from toprovar.runtime.backends.base import EngineOptions as EngineOptions
    from toprovar.stats import CalibrationStats as CalibrationStats

__version__ = "0.1.0"

_HOMES = {
    "CalibrationStats": "toprovar.stats",
    "EngineOptions": "toprovar.runtime.backends.base",
    "Manifest": "toprovar.manifest",
    "Session": "toprovar.runtime.session",
    "SparsityPlan": "toprovar.plan",
    "ToProVARError": "toprovar.errors",
    "compile_model": "toprovar.pipeline.compile",
}

__all__ = [
    "CalibrationStats",
    "EngineOptions",
    "Manifest",
    "Session",
    "SparsityPlan",
    "ToProVARError",
    "__version__",
    "compile_model",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'toprovar' has no attribute {name!r}")
    from toprovar.extras import naming_extras

    with naming_extras():
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted((*globals(), *_HOMES))
