"""Compares a deployment's graphs with the modules that they were exported from, on real inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator, SimpleCompareFunc
from polygraphy.comparator.struct import IterationResult
from polygraphy.logger import G_LOGGER
from torch import nn

from toprovar.compiler.graph_check import SMALLEST_EQUAL_BITS, GraphCheck
from toprovar.compiler.torch_runner import TorchRunner
from toprovar.signature import Signature

__all__ = ["ABSOLUTE", "RELATIVE", "SMALLEST_EQUAL_BITS", "Case", "GraphCheck", "GraphVerifier"]

ABSOLUTE = 1e-3
RELATIVE = 1e-3
"""Largest error in fp32 of any element, absolute or relative; what follows a bit is compared by its median,
since one bit that rounding flips changes everything after it."""

_AFTER_BITS = ("next_x", "next_summed")


@dataclass(frozen=True)
class Case:
    """One call of a graph, as it happened in a generation.

    Attributes:
        graph: name of the graph.
        scale: index of the scale; None outside the steps.
        feed: inputs by name.
    """

    graph: str
    scale: int | None
    feed: Mapping[str, np.ndarray]


class GraphVerifier:
    """Runs calls through ONNX Runtime and torch with Polygraphy, one at a time as they happen.

    Args:
        folder: holds ``NAME.onnx``.
        modules: of `toprovar.compiler.modules.build_modules`.
    """

    def __init__(self, folder: Path, modules: Mapping[str, tuple[nn.Module, Signature]]) -> None:
        self._folder = folder
        self._modules = modules
        self._sessions: dict[str, Any] = {}

    def check(self, case: Case) -> GraphCheck:
        """Compares one call; nothing of it is kept."""
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            if case.graph not in self._sessions:
                self._sessions[case.graph] = SessionFromOnnx(str(self._folder / f"{case.graph}.onnx"))()
            runners = [
                OnnxrtRunner(self._sessions[case.graph], name="onnxruntime"),
                TorchRunner(*self._modules[case.graph], case.feed),
            ]
            return _compare(case, Comparator.run(runners, data_loader=[dict(case.feed)]))


def _new_part(name: str, value: object, case: Case) -> np.ndarray:
    """An output without what it copies: a cache ends in the keys of this call, after those of its input."""
    array = np.asarray(value)
    past = case.feed.get(name.replace("present_", "past_")) if name.startswith("present_") else None
    return array if past is None else np.ascontiguousarray(array[:, :, past.shape[2] :])


def _compare(case: Case, results: object) -> GraphCheck:
    runs = [iterations[0] for _, iterations in results]  # type: ignore[attr-defined]
    actual, expected = ({name: _new_part(name, run[name], case) for name in runs[1]} for run in runs)
    failures = [
        name
        for name in expected
        if actual[name].shape != expected[name].shape
        or not np.isfinite(actual[name][np.isfinite(expected[name])]).all()
    ]
    # An output of no elements, such as the cache of a layer that is left out, has only its shape to compare.
    names = [name for name in expected if name not in (*failures, "bits") and expected[name].size]
    compare = SimpleCompareFunc(
        atol=dict.fromkeys(names, ABSOLUTE),
        rtol=dict.fromkeys(names, RELATIVE),
        check_error_stat={"": "elemwise"} | dict.fromkeys(_AFTER_BITS, "median"),
    )
    left, right = (IterationResult({name: values[name] for name in names}) for values in (actual, expected))
    with np.errstate(all="ignore"):
        failures += [name for name, result in compare(left, right).items() if not bool(result)]
    equal = None
    if "bits" in expected and "bits" not in failures:
        equal = float((actual["bits"] == expected["bits"]).mean())
        failures += ["bits"] if equal < SMALLEST_EQUAL_BITS else []
    errors = (
        float(np.abs(actual[name].astype(np.float64) - expected[name].astype(np.float64)).max())
        for name in names
        if name not in _AFTER_BITS
    )
    return GraphCheck(case.graph, case.scale, not failures, max(errors, default=0.0), equal, tuple(failures))
