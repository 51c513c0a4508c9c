"""Verification finds what is wrong, and only that."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from torch import nn

from toprovar.compiler.modules import build_modules
from toprovar.compiler.verify import Case, GraphVerifier, _compare
from toprovar.models.loader import load_model
from toprovar.runtime.session import Session
from toprovar.signature import Signature

from ..tiny_nano import REFERENCE, Compiled, as_nano, with_kept

Modules = Mapping[str, tuple[nn.Module, Signature]]


@pytest.fixture(scope="module")
def torch_session(compiled: Compiled, weights: Path) -> Iterator[Session]:
    with as_nano(weights), Session.open(compiled.folder, "torch", options=REFERENCE) as session:
        yield session


@pytest.fixture(scope="module")
def modules(torch_session: Session, weights: Path) -> Modules:
    with as_nano(weights):
        return build_modules(load_model("nano"), torch_session.backend.model, torch_session.plan.pruning)


@pytest.fixture(scope="module")
def cases(torch_session: Session) -> list[Case]:
    """Every call of two generations: one sparse, with a layer that never computes anything, one dense."""
    cases: list[Case] = []
    torch_session.backend.tap = lambda *call: cases.append(Case(*call))  # type: ignore[attr-defined]
    plan = with_kept(torch_session.plan, lambda s, t: (0, max(t // 2, 1)) if s else (0, t))
    sparse = Session(torch_session.backend, plan, torch_session.sampling, torch_session.tokenize)
    sparse("a red circle")
    sparse("two stars", dense=True)
    torch_session.backend.tap = None  # type: ignore[attr-defined]
    return cases


def test_every_call_agrees(compiled: Compiled, modules: Modules, cases: list[Case]) -> None:
    verifier = GraphVerifier(compiled.folder / "graphs", modules)
    checks = [verifier.check(case) for case in cases]
    assert [(check.graph, check.scale) for check in checks] == [(case.graph, case.scale) for case in cases]
    assert {case.graph for case in cases} == {"text", "prompt", "dense", "adaptive", "decode"}
    assert all(check.passed and not check.failures for check in checks)
    assert max(check.worst for check in checks) < 1e-3
    assert min(check.equal_bits for check in checks if check.equal_bits is not None) >= 0.999
    # the first scale has one token
    first = next(case for case in cases if case.graph == "dense" and case.scale == 0)
    assert first.feed["x"].shape[1] == 1


def test_scalars_reach_a_graph_as_scalars(cases: list[Case]) -> None:
    for case in cases:
        for name in ("scale", "guidance", "temperature", "certain"):
            assert case.feed.get(name, np.zeros(())).shape == ()


def damaged(compiled: Compiled, folder: Path, graph: str) -> Path:
    """A copy in which the largest matrix of a graph is back to front."""
    graphs = folder / "graphs"
    shutil.copytree(compiled.folder / "graphs", graphs)
    tensors = onnx.load(graphs / f"{graph}.onnx", load_external_data=False).graph.initializer
    places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in tensors if tensor.external_data]
    largest = max(places, key=lambda place: int(place["length"]))
    with (graphs / "weights.bin").open("r+b") as file:
        file.seek(int(largest["offset"]))
        values = np.frombuffer(file.read(int(largest["length"])), np.float32)
        file.seek(int(largest["offset"]))
        file.write(values[::-1].tobytes())
    return graphs


@pytest.mark.parametrize("graph", ["text", "dense", "decode"])
def test_a_damaged_weight(graph: str, compiled: Compiled, modules: Modules, cases: list[Case], tmp_path: Path) -> None:
    last = [case for case in cases if case.graph == graph][-1]
    check = GraphVerifier(damaged(compiled, tmp_path, graph), modules).check(last)
    assert not check.passed
    assert check.failures
    assert check.worst > 1e-3


@pytest.mark.parametrize("graph", ["prompt", "adaptive"])
def test_numbers_that_are_not_finite(
    graph: str, compiled: Compiled, modules: Modules, cases: list[Case], tmp_path: Path
) -> None:
    graphs = tmp_path / "graphs"
    shutil.copytree(compiled.folder / "graphs", graphs)
    with (graphs / "weights.bin").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(0)
        file.write(np.full(size // 4, np.nan, np.float32).tobytes())
    last = [case for case in cases if case.graph == graph][-1]
    check = GraphVerifier(graphs, modules).check(last)
    assert not check.passed


@pytest.mark.parametrize(
    ("name", "value", "passed"),
    [("next_x", 0.0, True), ("next_x", np.nan, False), ("next_x", np.inf, False), ("entropy", np.nan, False)],
)
def test_one_number_that_is_not_finite(name: str, value: float, passed: bool) -> None:
    """What follows the bits is compared by its median, which one number does not move."""
    names = ("bits", "next_x", "entropy")
    expected = {one: np.zeros((1, 9), np.uint8 if one == "bits" else np.float32) for one in names}
    actual = {one: values.copy() for one, values in expected.items()}
    actual[name][0, 4] = value
    check = _compare(Case("adaptive", 3, {}), [("onnxruntime", [actual]), ("torch", [expected])])
    assert check.passed == passed
    assert check.failures == (() if passed else (name,))


def test_another_shape() -> None:
    expected = {"image": np.zeros((1, 3, 4, 4), np.float32)}
    check = _compare(
        Case("decode", None, {}), [("onnxruntime", [{"image": np.zeros((1, 3, 4))}]), ("torch", [expected])]
    )
    assert check.failures == ("image",)
