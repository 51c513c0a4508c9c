"""The processor that this runs on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["describe_processor", "usable_cores"]


def usable_cores() -> int:
    """Logical cores that this process may use; a container's share is often less than the machine's."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe_processor() -> str:
    """Number and name of the cores, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{usable_cores()} cores of {name or platform.machine()}"
