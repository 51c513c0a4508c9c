"""Runs the fused kernels in Triton's interpreter, on the CPU, in a process that starts with it switched on."""

from __future__ import annotations

import multiprocessing
import site
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

__all__ = ["Interpreter", "interpreter"]

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 120  # a launch that takes longer hangs


def _call(ops: str, method: str, arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    from toprovar.runtime.cuda.fused_decoder_ops import FusedDecoderOps
    from toprovar.runtime.cuda.fused_ops import FusedOps

    made = FusedOps() if ops == "FusedOps" else FusedDecoderOps()
    return getattr(made, method)(*arguments), arguments


class Interpreter:
    """Calls methods of the fused operators; what they write to comes back as copies."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, method: str, *arguments: Any, ops: str = "FusedOps") -> tuple[Any, tuple[Any, ...]]:
        return self._pool.submit(_call, ops, method, arguments).result(SECONDS)


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Interpreter]:
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        # The child finds this file as a part of `tests`, whatever pytest was started as.
        pool = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=site.addsitedir, initargs=(str(ROOT),)
        )
        pool.submit(int).result(SECONDS)
    yield Interpreter(pool)
    pool.shutdown()
