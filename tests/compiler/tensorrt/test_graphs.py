"""The graphs for TensorRT compute what the modules do, and hold nothing that its parser cannot take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from toprovar import signature
from toprovar.compiler.tensorrt.contract import read_graph_file
from toprovar.compiler.tensorrt.graphs import OPSET, STEP
from toprovar.errors import UsageError
from toprovar.pruning import Pruning

from ..test_export import CHANNELS, DEPTH, GRIDS, make_model, make_plan
from .small import Exported, Model, export_small, graph_of

BEFORE_BITS = {"x", "modulation", "text_key.0", "text_value.1", "image", "new_key.0", "new_value.0"}


@pytest.fixture(scope="module")
def layered() -> Model:
    """Sorts within the graph, caches updates, takes guidance over, and leaves a layer out; with patches."""
    return export_small(Pruning("own_scale", (0,), "cached", reuses_guidance=True), patchify=True)


@pytest.fixture(scope="module")
def whole(layered: Model, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return layered.save(tmp_path_factory.mktemp("float32"), "float32")


@pytest.fixture(scope="module")
def half(layered: Model, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return layered.save(tmp_path_factory.mktemp("bfloat16"), "bfloat16")


def test_float32_agrees_with_the_modules(whole: Exported) -> None:
    sessions = whole.sessions()
    for case in whole.cases:
        actual, expected = whole.run(sessions[graph_of(case)], case), whole.expected(case)
        # A scale that runs dense has the order of its tokens for itself.
        names = [name for name in expected if not (case.graph == "dense" and name.startswith("new_"))]
        for name in names:
            wanted = expected[name]
            assert actual[name].shape == wanted.shape, name
            if name == "bits":
                assert (actual[name] == wanted).mean() >= 0.999
            elif wanted.size:
                np.testing.assert_allclose(actual[name], wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_bfloat16_is_as_near_as_its_digits(half: Exported) -> None:
    """Three digits; what follows a bit is compared by its median, since one bit changes everything after it."""
    sessions = half.sessions()
    for case in half.cases:
        actual, expected = half.run(sessions[graph_of(case)], case), half.expected(case)
        if case.graph in ("dense", "adaptive"):
            assert (actual["bits"] == expected["bits"]).mean() >= 0.95
        for name in expected.keys() & BEFORE_BITS:
            if not expected[name].size or (case.graph == "dense" and name.startswith("new_")):
                continue
            error = np.abs(actual[name].astype(np.float64) - expected[name])
            assert np.median(error) <= 2**-7 * np.abs(expected[name]).max(), (case.graph, case.scale, name)


def test_valid_onnx_of_the_contract(whole: Exported) -> None:
    for name, graph in whole.graphs.items():
        path = whole.folder / f"{name}.onnx"
        onnx.checker.check_model(str(path), full_check=True)
        (opset,) = (
            entry.version for entry in onnx.load(path, load_external_data=False).opset_import if not entry.domain
        )
        assert opset == OPSET
        facts = read_graph_file(path)
        assert list(facts.contract.inputs) == list(graph.signature.inputs)
        assert list(facts.contract.outputs) == list(graph.signature.outputs)


def test_the_cache_is_by_token(whole: Exported) -> None:
    contract = read_graph_file(whole.folder / f"{STEP}.onnx").contract
    for name in signature.cache_names(DEPTH, "past"):
        layer = name.rpartition(".")[2]
        assert contract.inputs[name] == (f"P{layer}", "R", "2", "16")
    assert not any(name.startswith("present_") for name in contract.outputs)
    for name in signature.cache_names(DEPTH, "new"):
        assert contract.outputs[name] == ("K", "R", "2", "16")


def test_nothing_that_the_parser_refuses(whole: Exported) -> None:
    for name in whole.graphs:
        graph = ir.load(whole.folder / f"{name}.onnx").graph
        for node in graph:
            assert all(value.dtype != ir.DataType.UINT8 for value in node.outputs), node.name
            if node.op_type == "TopK":
                assert node.inputs[1] is not None
                assert node.inputs[1].const_value is not None
        types = read_graph_file(whole.folder / f"{name}.onnx").types
        assert types.get("bits", "int32") == "int32"


def test_nodes_bear_their_modules_names(half: Exported) -> None:
    graph = ir.load(half.folder / f"{STEP}.onnx").graph
    names = [node.name for node in graph]
    assert len(set(names)) == len(names)
    attention = [node.name or "" for node in graph if node.op_type in ("Attention", "FlashAttentionEntropy")]
    assert {name.rpartition("/")[0] for name in attention} == {
        f"backbone.block_chunks.{layer}.module.0.{part}" for layer in range(DEPTH) for part in ("sa", "ca")
    }


def test_products_are_bfloat16_and_the_rest_is_not(half: Exported) -> None:
    types = read_graph_file(half.folder / f"{STEP}.onnx").types
    cached = {
        name: kind for name, kind in types.items() if name.startswith(("past_", "new_", "text_key", "text_value"))
    }
    assert set(cached.values()) == {"bfloat16"}
    assert {types[name] for name in ("x", "modulation", "summed", "noise", "next_x", "entropy")} == {"float32"}
    for node in ir.load(half.folder / f"{STEP}.onnx").graph:
        if node.op_type in ("LayerNormalization", "ReduceL2", "Gelu", "Div"):
            assert all(value is None or value.dtype != ir.DataType.BFLOAT16 for value in node.inputs), node.name
        if node.op_type in ("Attention", "FlashAttentionEntropy") or (
            node.op_type == "MatMul" and ".ffn" in str(node.name)
        ):
            assert all(value is None or value.dtype == ir.DataType.BFLOAT16 for value in node.inputs), node.name


def test_casts_meet(half: Exported) -> None:
    """No value is widened only to be narrowed again, and no weight is narrowed when the engine runs."""
    for name in half.graphs:
        for node in ir.load(half.folder / f"{name}.onnx").graph:
            if node.op_type != "Cast" or node.attributes.get_int("to") != ir.DataType.BFLOAT16:
                continue
            source = node.inputs[0]
            assert source is not None
            assert source.const_value is None, node.name
            producer = source.producer()
            assert producer is None or producer.op_type not in ("Cast", "Transpose", "Reshape"), node.name


def test_an_unknown_precision(tmp_path: Path) -> None:
    from toprovar.compiler.tensorrt.graphs import tensorrt_graphs

    loaded = make_model(False)
    record = loaded.record(GRIDS)
    with pytest.raises(UsageError, match="unknown precision 'int3'; expected one of float32, bfloat16, float8"):
        tensorrt_graphs(loaded, record, make_plan(record, Pruning()), "int3")
    assert loaded.backbone.config.text_channels == CHANNELS
