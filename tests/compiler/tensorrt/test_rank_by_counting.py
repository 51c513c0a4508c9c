"""Ranks by counting are the orders that a stable sort gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from toprovar.calibration.policies.dense import dense_plan
from toprovar.compiler.graph import Graph
from toprovar.compiler.tensorrt.passes.rank_by_counting import LARGEST_TOP_K, rank_by_counting
from toprovar.signature import Signature

from ...calibration.made_up import SIDES, make_task

PLAN = dense_plan(tuple((side, side) for side in SIDES), make_task(1.0))


def sorting(kind: int, count: int | None = None, **attributes: int) -> Graph:
    """A graph that sorts values [B, L]: all of them, or the first `count`."""
    nodes = [onnx.helper.make_node("TopK", ["values", "count"], ["sorted", "order"], "sort", **attributes)]
    weights = []
    if count is None:
        nodes.insert(0, onnx.helper.make_node("Shape", ["values"], ["count"], "length", start=1, end=2))
    else:
        weights.append(onnx.numpy_helper.from_array(np.array([count]), "count"))
    values = onnx.helper.make_tensor_value_info("values", kind, ["B", "L"])
    order = onnx.helper.make_tensor_value_info("order", onnx.TensorProto.INT64, ["B", "N"])
    made = onnx.helper.make_graph(nodes, "g", [values], [order], weights)
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    model = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
    return Graph("g", model, Signature({"values": ("B", "L")}, {"order": ("B", "L")}))


def run(graph: Graph, values: np.ndarray) -> np.ndarray:
    content = ir.serde.serialize_model(graph.model).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(["order"], {"values": values})[0]


@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_equal_values_stay_as_they_stand(tokens: int) -> None:
    values = np.random.default_rng(0).integers(0, 5, (3, tokens)).astype(np.float32)
    graph = rank_by_counting(sorting(onnx.TensorProto.FLOAT, axis=1, largest=0), PLAN)
    assert "TopK" not in {node.op_type for node in graph.model.graph}
    np.testing.assert_array_equal(run(graph, values), values.argsort(axis=1, kind="stable"))


def test_a_permutation_is_inverted() -> None:
    values = np.stack([np.random.default_rng(seed).permutation(50) for seed in range(2)])
    graph = rank_by_counting(sorting(onnx.TensorProto.INT64, axis=1, largest=0), PLAN)
    kinds = [node.op_type for node in graph.model.graph]
    assert "ScatterElements" in kinds
    assert "Less" not in kinds
    np.testing.assert_array_equal(run(graph, values), values.argsort(axis=1))


def test_a_few_of_many_are_left_to_topk() -> None:
    graph = rank_by_counting(sorting(onnx.TensorProto.FLOAT, 8, axis=1, largest=0), PLAN)
    assert [node.op_type for node in graph.model.graph] == ["TopK"]


@pytest.mark.parametrize(
    ("count", "attributes"),
    [(LARGEST_TOP_K + 1, {"axis": 1, "largest": 1}), (None, {"axis": 0, "largest": 0}), (None, {"axis": 1})],
    ids=["too many", "another axis", "descending"],
)
def test_what_cannot_be_replaced(count: int | None, attributes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="is not an ascending sort of axis 1"):
        rank_by_counting(sorting(onnx.TensorProto.FLOAT, count, **attributes), PLAN)


def test_the_given_graph_is_untouched() -> None:
    graph = sorting(onnx.TensorProto.FLOAT, axis=1, largest=0)
    rank_by_counting(graph, PLAN)
    assert [node.op_type for node in graph.model.graph] == ["Shape", "TopK"]
