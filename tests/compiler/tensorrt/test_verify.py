"""Graphs against modules, with Polygraphy's comparators: what passes, what does not, and what is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from toprovar.compiler.tensorrt.contract import read_graph_file
from toprovar.compiler.tensorrt.onnx_graphs import OnnxGraphs
from toprovar.compiler.tensorrt.verify import EngineVerifier, RunGraph
from toprovar.pruning import Pruning

from .small import Exported, Model, export_small


@pytest.fixture(scope="module")
def model() -> Model:
    return export_small(Pruning("previous_scale", (1,)), patchify=False)


@pytest.fixture(scope="module", params=["float32", "bfloat16", "float8"])
def exported(model: Model, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return model.save(tmp_path_factory.mktemp(request.param), request.param)


def verifier(exported: Exported, **runners: RunGraph) -> EngineVerifier:
    contracts = {name: read_graph_file(exported.folder / f"{name}.onnx").contract for name in exported.graphs}
    observers = len(exported.plan.ranking.observers)
    return EngineVerifier(exported.modules, contracts, observers, exported.precision, runners)


@pytest.fixture(scope="module")
def onnxruntime(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> OnnxGraphs:
    return OnnxGraphs(exported.folder, exported.precision, tmp_path_factory.mktemp("twins"))


def test_graphs_that_compute_what_the_modules_do(exported: Exported, onnxruntime: OnnxGraphs) -> None:
    judge = verifier(exported, onnxruntime=onnxruntime)
    checks = [check for case in exported.cases for check in judge.check(case)]
    assert len(checks) == len(exported.cases)
    assert [check for check in checks if check.failures] == []
    assert {check.rows for check in checks} >= {1, 2}
    assert {check.sparse for check in checks} == {False, True}
    steps = [check for check in checks if check.scale is not None]
    assert all(check.equal_bits is not None and check.equal_bits > 0.9 for check in steps)
    named = {output.name: output for check in checks for output in check.outputs}
    assert {"image", "new_key.0", "next_x", "modulation", "text_bias"} <= named.keys()
    assert named["text_bias"].psnr is None
    cosine = named["new_key.0"].cosine
    assert cosine is not None
    assert cosine > 0.999


def test_an_engine_that_is_wrong(exported: Exported, onnxruntime: OnnxGraphs) -> None:
    def wrong(graph: str, scale: int | None, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = onnxruntime(graph, scale, feed)
        if graph == "step":
            outputs["new_key.0"] = outputs["new_key.0"] * np.float32(1.5)
            outputs["bits"] = 1 - outputs["bits"]
            outputs["next_summed"] = np.full_like(outputs["next_summed"], np.nan)
            outputs["next_x"] = outputs["next_x"][:, :0]
        return outputs

    case = next(one for one in exported.cases if one.graph == "adaptive" and one.scale == 2)
    right, other = verifier(exported, onnxruntime=onnxruntime, wrong=wrong).check(case)
    assert (right.runner, right.failures) == ("onnxruntime", ())
    assert (other.runner, set(other.failures)) == ("wrong", {"new_key.0", "bits", "next_summed", "next_x"})


def test_twins_are_written_where_they_may(exported: Exported, tmp_path: Path) -> None:
    graphs = OnnxGraphs(exported.folder, exported.precision, tmp_path / "twins")
    case = next(one for one in exported.cases if one.graph == "decode")
    assert graphs("decode", None, case.feed)["image"].dtype == np.float32
    assert (tmp_path / "twins").exists() == (exported.precision != "float32")


def test_a_cache_in_another_order(exported: Exported, onnxruntime: OnnxGraphs) -> None:
    """A dense scale's tokens may stand in any order in the cache, but must be there."""

    def turned(graph: str, scale: int | None, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = onnxruntime(graph, scale, feed)
        return {name: value[::-1] if name.startswith("new_key") else value for name, value in outputs.items()}

    def scaled(graph: str, scale: int | None, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = onnxruntime(graph, scale, feed)
        return {name: value * 2 if name.startswith("new_key") else value for name, value in outputs.items()}

    case = next(one for one in exported.cases if one.graph == "dense" and one.scale == 2)
    one, other = verifier(exported, turned=turned, scaled=scaled).check(case)
    assert one.failures == ()
    assert set(other.failures) == {"new_key.0", "new_key.1"}
