"""The peers' own code, timed in a process of its own by a harness that is given with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["time_peer"]


def time_peer(harness: Path, package: Path, size: str) -> dict[str, Any]:
    """Runs ``HARNESS PACKAGE SIZE`` and returns the JSON object of its last line.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, str(harness), str(package), size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
