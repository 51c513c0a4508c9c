"""Compares what runs the graphs of a TensorRT deployment with the modules that they were exported from."""

from __future__ import annotations

import functools
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, CosineSimilarityCompareFunc, PsnrCompareFunc, SimpleCompareFunc
from polygraphy.comparator.struct import IterationResult
from polygraphy.logger import G_LOGGER
from torch import nn

from toprovar.compiler.tensorrt.graphs import STEP
from toprovar.compiler.tensorrt.translate import engine_feed, engine_outputs
from toprovar.compiler.verify import Case
from toprovar.signature import Signature

__all__ = ["TOLERANCES", "EngineCheck", "EngineVerifier", "OutputCheck", "RunGraph", "Tolerance"]

RunGraph = Callable[[str, int | None, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
"""Runs a graph: its name, the scale, its inputs by name; gives its outputs, bfloat16 as float32."""

_REFERENCE = "torch"
_STEPS = ("dense", "adaptive")
_AFTER_BITS = ("next_x", "next_summed")
_ENTROPIES = ("entropy", "next_prior")
_NEW = ("new_key.", "new_value.")
_MASKED = 1e30
"""From here on a number stands for minus infinity: squares of it have no meaning."""


@dataclass(frozen=True)
class Tolerance:
    """What an output may differ from the module's.

    Attributes:
        relative: of the largest magnitude of the output; the error of any element in float32, the median in fewer bits.
        cosine: least similarity.
        psnr: least, in dB of the output's largest value.
        equal_bits: least share.
        statistic: of the errors, as Polygraphy calls it.
        entropy_cosine: least similarity of standardised entropies, which are differences of nearly equal numbers; None
            where they are held to what all outputs are.
        entropy_psnr: likewise in dB.
    """

    relative: float
    cosine: float
    psnr: float
    equal_bits: float
    statistic: str
    entropy_cosine: float | None = None
    entropy_psnr: float | None = None


TOLERANCES = {
    "float32": Tolerance(1e-3, 0.9999, 50.0, 0.999, "elemwise"),
    # Eight digits of a mantissa, over the layers of a network.
    "bfloat16": Tolerance(2**-7, 0.995, 20.0, 0.95, "median"),
    # Four digits: sixteen times that. Of the 16 bits of a scale of one token, two may flip.
    "float8": Tolerance(2**-3, 0.98, 20.0, 0.85, "median", 0.95, 15.0),
}
"""By the type of products."""


@dataclass(frozen=True)
class OutputCheck:
    """How an output compared.

    Attributes:
        name: of the output.
        passed: within every tolerance.
        absolute: largest error.
        relative: the statistic's error, as a share of the output's largest magnitude.
        cosine: similarity; None where it has no meaning.
        psnr: in dB; None where it has no meaning or both are equal.
    """

    name: str
    passed: bool
    absolute: float
    relative: float
    cosine: float | None
    psnr: float | None


@dataclass(frozen=True)
class EngineCheck:
    """How a call compared.

    Attributes:
        runner: what ran it.
        graph: name of the graph.
        scale: index of the scale; None outside the steps.
        sparse: whether tokens were left out.
        rows: of the batch.
        outputs: one by one.
        equal_bits: share; None where the graph draws none.
        failures: outputs out of tolerance.
    """

    runner: str
    graph: str
    scale: int | None
    sparse: bool
    rows: int
    outputs: tuple[OutputCheck, ...]
    equal_bits: float | None
    failures: tuple[str, ...]


class EngineVerifier:
    """Compares calls, one at a time as they happen.

    Args:
        modules: of `toprovar.compiler.modules.build_modules`.
        contracts: inputs and outputs of the graphs, by name.
        observers: layers that the plan observes.
        precision: of products.
        runners: what is compared with the modules, by name.
    """

    def __init__(
        self,
        modules: Mapping[str, tuple[nn.Module, Signature]],
        contracts: Mapping[str, Signature],
        observers: int,
        precision: str,
        runners: Mapping[str, RunGraph],
    ) -> None:
        self._modules, self._contracts, self._observers = modules, contracts, observers
        self._tolerance, self._runners = TOLERANCES[precision], dict(runners)

    def check(self, case: Case) -> list[EngineCheck]:
        """Compares one call on every runner; nothing of it is kept."""
        graph = STEP if case.graph in _STEPS else case.graph
        contract = self._contracts[graph]
        feed = dict(case.feed)
        if graph == STEP:
            feed = engine_feed(feed, contract, self._observers)
        runners = [_CallRunner(_REFERENCE, case.feed, functools.partial(self._expected, case))]
        runners += [
            _CallRunner(name, case.feed, functools.partial(run, graph, case.scale, feed))
            for name, run in self._runners.items()
        ]
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            results = Comparator.run(runners, data_loader=[dict(case.feed)])
            runs = {name: iterations[0] for name, iterations in results}
            expected = {name: np.asarray(runs[_REFERENCE][name]) for name in runs[_REFERENCE]}
            return [self._compare(case, name, expected, runs[name]) for name in self._runners]

    def _expected(self, case: Case) -> dict[str, np.ndarray]:
        module, contract = self._modules[case.graph]
        # ascontiguousarray would give a scalar an axis
        device = next((one.device for one in module.parameters()), torch.device("cpu"))
        tensors = [torch.from_numpy(np.asarray(case.feed[name], order="C")).to(device) for name in contract.inputs]
        with torch.inference_mode():
            results = module(*tensors)
        results = results if isinstance(results, tuple) else (results,)
        outputs = dict(zip(contract.outputs, (result.cpu().numpy() for result in results), strict=True))
        return engine_outputs(outputs, case.feed)

    def _compare(
        self, case: Case, runner: str, expected: Mapping[str, np.ndarray], run: Mapping[str, Any]
    ) -> EngineCheck:
        actual = {name: np.asarray(run[name]) for name in expected}
        if case.graph == "dense":
            # The one graph of all scales may sort tokens that nobody prunes, which attention does not see.
            expected, actual = (
                {name: np.sort(value, axis=0) if name.startswith(_NEW) else value for name, value in given.items()}
                for given in (expected, actual)
            )
        failures = [
            name
            for name in expected
            if actual[name].shape != expected[name].shape
            or not np.isfinite(actual[name][np.isfinite(expected[name])]).all()
        ]
        outputs = [
            self._output(name, expected[name], actual[name])
            for name in expected
            # An output of no elements has only its shape to compare.
            if name not in (*failures, "bits") and expected[name].size
        ]
        failures += [output.name for output in outputs if not output.passed]
        equal = None
        if "bits" in expected and "bits" not in failures:
            equal = float((actual["bits"] == expected["bits"]).mean())
            failures += ["bits"] if equal < self._tolerance.equal_bits else []
        kept = case.feed.get("kept")
        tokens = case.feed["noise"].shape[1] if "noise" in case.feed else 0
        sparse = kept is not None and bool((kept < tokens).any())
        rows = next(iter(case.feed.values())).shape[0]
        return EngineCheck(runner, case.graph, case.scale, sparse, rows, tuple(outputs), equal, tuple(failures))

    def _output(self, name: str, expected: np.ndarray, actual: np.ndarray) -> OutputCheck:
        tolerance = self._tolerance
        expected, actual = (value.astype(np.float64) for value in (expected, actual))
        largest = float(np.abs(expected).max())
        # One bit that rounding flips changes everything after it.
        statistic = "median" if name in _AFTER_BITS else tolerance.statistic
        limit = tolerance.relative * max(largest, 1e-6)
        simple = SimpleCompareFunc(atol=limit, rtol=0.0, check_error_stat=statistic)
        found = _result(simple, name, expected, actual)
        value = found.max_absdiff if statistic == "elemwise" else found.median_absdiff
        passed, cosine, psnr = bool(found), None, None
        least_cosine, least_psnr = tolerance.cosine, tolerance.psnr
        if name in _ENTROPIES:
            least_cosine = least_cosine if tolerance.entropy_cosine is None else tolerance.entropy_cosine
            least_psnr = least_psnr if tolerance.entropy_psnr is None else tolerance.entropy_psnr
        if largest < _MASKED and largest > 0 and name not in _AFTER_BITS:
            similar = _result(CosineSimilarityCompareFunc(least_cosine), name, expected, actual)
            # Of the magnitudes' largest, which Polygraphy takes from the first argument's largest value.
            noise = _result(PsnrCompareFunc(least_psnr), name, np.append(expected, largest), np.append(actual, largest))
            passed = passed and bool(similar) and bool(noise)
            cosine, psnr = float(similar.cosine_similarity), float(noise.psnr)
        absolute = float(np.abs(actual - expected).max())
        shown = None if psnr is None or not math.isfinite(psnr) else psnr
        return OutputCheck(name, passed, absolute, value / max(largest, 1e-6), cosine, shown)


def _result(compare: Any, name: str, expected: np.ndarray, actual: np.ndarray) -> Any:
    left, right = (IterationResult({name: value}) for value in (expected, actual))
    with np.errstate(all="ignore"):
        return compare(left, right)[name]


class _CallRunner(BaseRunner):
    """A Polygraphy runner that calls a function, which has its own reading of the inputs.

    Args:
        name: of the runner.
        example: inputs by name.
        call: runs the case; outputs by name.
    """

    def __init__(
        self,
        name: str,
        example: Mapping[str, np.ndarray],
        call: Callable[[], Mapping[str, np.ndarray]],
    ) -> None:
        super().__init__(name=name, prefix=name)
        self._example, self._call = example, call

    def get_input_metadata_impl(self, use_numpy_dtypes: bool | None = None) -> TensorMetadata:
        """Names, types and shapes of the inputs, from the example."""
        metadata = TensorMetadata()
        for name, value in self._example.items():
            metadata.add(name, dtype=value.dtype, shape=value.shape)
        return metadata

    def infer_impl(self, feed_dict: Mapping[str, np.ndarray]) -> OrderedDict[str, np.ndarray]:
        """Calls the function; outputs by name."""
        started = time.perf_counter()
        outputs = self._call()
        self.inference_time = time.perf_counter() - started
        return OrderedDict(outputs)
