"""A message of TensorRT's leads to a module, a scale and a small file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from toprovar.compiler.tensorrt.blame import find_blame, save_minimal
from toprovar.engines import EngineProfile

PROFILES = [EngineProfile(f"scale {scale}, dense", scale, False, {}, {}) for scale in range(12)]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Two linear layers, named as the compiler names them."""
    names = ["blocks.1.ffn/MatMul_2", "blocks.1.ffn/MatMul_21"]
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "first"], ["y"], name=names[0]),
        onnx.helper.make_node("MatMul", ["y", "second"], ["z"], name=names[1]),
    ]
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["R", size])
        for name, size in (("x", 4), ("z", 2), ("y", 3))
    ]
    weights = [
        onnx.numpy_helper.from_array(np.ones(shape, np.float32), name)
        for name, shape in (("first", (4, 3)), ("second", (3, 2)))
    ]
    made = onnx.helper.make_graph(nodes, "g", values[:1], values[1:2], weights, value_info=values[2:])
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, tmp_path / "g.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return tmp_path / "g.onnx"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "Could not find any implementation for node {ForeignNode[blocks.1.ffn/MatMul_21...y]} (profile 11)",
            " in blocks.1.ffn (blocks.1.ffn/MatMul_21) at scale 11, dense",
        ),
        (
            "blocks.1.ffn/MatMul_2: dimensions clash, then blocks.1.ffn/MatMul_21",
            " in blocks.1.ffn (blocks.1.ffn/MatMul_2)",
        ),
        ("Error Code 4: shape of past_key.0 in optimization profile #3", " at scale 3, dense"),
        ("profile 12 is unknown", ""),
        ("out of memory", ""),
    ],
)
def test_what_a_message_is_about(message: str, words: str, graph: Path) -> None:
    assert find_blame(message, graph, PROFILES).words() == words


def test_the_smallest_graph(graph: Path, tmp_path: Path) -> None:
    target = tmp_path / "repro" / "small.onnx"
    assert save_minimal(graph, "blocks.1.ffn/MatMul_21", target)
    onnx.checker.check_model(str(target), full_check=True)
    small = onnx.load(target)
    assert [node.name for node in small.graph.node] == ["blocks.1.ffn/MatMul_21"]
    assert [value.name for value in small.graph.input] == ["y"]
    assert [value.name for value in small.graph.output] == ["z"]
    (weights,) = small.graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(weights), np.ones((3, 2), np.float32))


def test_no_such_node(graph: Path, tmp_path: Path) -> None:
    assert not save_minimal(graph, "blocks.2.ffn/MatMul_2", tmp_path / "none.onnx")
    assert not (tmp_path / "none.onnx").exists()


def test_weights_that_are_too_large_stay_out(graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toprovar.compiler.tensorrt.blame._REPRODUCED_BYTES", 4)
    assert not save_minimal(graph, "blocks.1.ffn/MatMul_2", tmp_path / "none.onnx")


def test_the_whole_graph_is_untouched(graph: Path, tmp_path: Path) -> None:
    before = graph.read_bytes()
    save_minimal(graph, "blocks.1.ffn/MatMul_2", tmp_path / "small.onnx")
    assert graph.read_bytes() == before
    assert len(list(ir.load(graph).graph)) == 2
