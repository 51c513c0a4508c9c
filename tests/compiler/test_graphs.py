"""What lies in a deployment's graphs folder."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from safetensors import safe_open

from toprovar import signature
from toprovar.compiler.export_onnx import OPSET
from toprovar.compiler.weights import WEIGHTS_FILE
from toprovar.plugins.fae.schema import SCHEMA

from ..tiny_nano import LAYERS, Compiled

CONTRACTS = {
    "text": signature.TEXT,
    "prompt": signature.prompt(LAYERS),
    "dense": signature.step(LAYERS, adaptive=False),
    "adaptive": signature.step(LAYERS, adaptive=True),
    "decode": signature.DECODE,
}
SIZES = {"C": 64, "H": 2, "D": 32, "D/2": 16, "d": 16, "z": 16, "layers": 2, "observers": 1, "channels": 32}


def graph(compiled: Compiled, name: str) -> onnx.ModelProto:
    return onnx.load(compiled.folder / "graphs" / f"{name}.onnx", load_external_data=False)


def test_the_folder_holds_the_graphs_and_nothing_else(compiled: Compiled) -> None:
    names = {path.name for path in (compiled.folder / "graphs").iterdir()}
    assert names == {f"{name}.onnx" for name in CONTRACTS} | {WEIGHTS_FILE, "constants.safetensors"}


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_graph_is_valid_onnx(name: str, compiled: Compiled) -> None:
    onnx.checker.check_model(str(compiled.folder / "graphs" / f"{name}.onnx"), full_check=True)
    (opset,) = (entry.version for entry in graph(compiled, name).opset_import if entry.domain == "")
    assert opset == OPSET


@pytest.mark.parametrize("name", CONTRACTS)
def test_names_and_axes_are_the_signatures(name: str, compiled: Compiled) -> None:
    model, contract = graph(compiled, name).graph, CONTRACTS[name]
    for values, expected in ((model.input, contract.inputs), (model.output, contract.outputs)):
        assert [value.name for value in values] == list(expected)
        for value in values:
            axes = [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            wanted = [int(axis) if axis.isdigit() else SIZES.get(axis, axis) for axis in expected[value.name]]
            assert axes == wanted, value.name


def test_the_operator_stands_in_the_graph_with_its_body(compiled: Compiled) -> None:
    model = graph(compiled, "adaptive")
    nodes = [node for node in model.graph.node if node.domain == SCHEMA.domain]
    assert [node.op_type for node in nodes] == ["FlashAttentionEntropy"]  # one observer
    attributes = {attribute.name: attribute.s.decode() for attribute in nodes[0].attribute}
    assert {"plugin_namespace", "plugin_version"} <= set(attributes)
    assert attributes == dict(SCHEMA.plugin_attributes)
    (function,) = (one for one in model.functions if one.name == "FlashAttentionEntropy")
    assert {"MatMul", "LogSoftmax"} <= {node.op_type for node in function.node}
    for name in CONTRACTS.keys() - {"adaptive"}:
        assert not any(node.domain == SCHEMA.domain for node in graph(compiled, name).graph.node)


def test_every_tensor_is_stored_once(compiled: Compiled) -> None:
    places: dict[tuple[int, int], set[str]] = {}
    for name in CONTRACTS:
        for tensor in graph(compiled, name).graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                where = {entry.key: entry.value for entry in tensor.external_data}
                assert where["location"] == WEIGHTS_FILE
                places.setdefault((int(where["offset"]), int(where["length"])), set()).add(name)
            else:
                assert len(tensor.raw_data) < 1024
    spans = sorted(places)
    assert all(offset % 4096 == 0 for offset, _ in spans)
    assert all(first + size <= second for (first, size), (second, _) in itertools.pairwise(spans))
    assert sum({"dense", "adaptive"} <= names for names in places.values()) > 10
    size = (compiled.folder / "graphs" / WEIGHTS_FILE).stat().st_size
    assert size >= sum(length for _, length in spans)
    assert size - sum(length for _, length in spans) < 4096 * len(spans)


def test_the_weights_are_about_as_large_as_the_model(compiled: Compiled, weights: Path) -> None:
    model = 0
    for name in ("model", "vae", "text_encoder"):
        with safe_open(weights / f"{name}.safetensors", "np") as file:
            for key in file.keys():  # noqa: SIM118  not a mapping
                # the encoder's half of the VAE is not deployed
                deployed = not key.startswith("encoder.")
                model += file.get_tensor(key).nbytes * deployed
    stored = {
        where["offset"]: int(where["length"])
        for name in CONTRACTS
        for tensor in graph(compiled, name).graph.initializer
        if (where := {entry.key: entry.value for entry in tensor.external_data})
    }
    assert 0.9 * model < sum(stored.values()) < 1.02 * model


def test_no_transposition_by_way_of_three_axes(compiled: Compiled) -> None:
    """The exporter's detour cannot say that there are no keys (`toprovar.compiler.passes.transpose_keys`)."""
    for name in ("dense", "adaptive"):
        nodes = graph(compiled, name).graph.node
        made_by = {output: node for node in nodes for output in node.output}
        detours = [
            node.name
            for node in nodes
            if node.op_type == "Reshape"
            and (turn := made_by.get(node.input[0])) is not None
            and turn.op_type == "Transpose"
            and (first := made_by.get(turn.input[0])) is not None
            and first.op_type == "Reshape"
        ]
        assert detours == []
        assert any(list(one.ints) == [0, 1, 3, 2] for node in nodes for one in node.attribute)


@pytest.mark.parametrize("tokens", [1, 2, 24])
def test_texts_of_any_length(tokens: int, compiled: Compiled) -> None:
    text, prompt = (
        ort.InferenceSession(compiled.folder / "graphs" / f"{name}.onnx", providers=["CPUExecutionProvider"])
        for name in ("text", "prompt")
    )
    (features,) = text.run(None, {"token_ids": np.full((1, tokens), 3)})
    assert features.shape == (1, tokens, 32)
    for rows in (1, 2, 6):
        feed = {"features": np.repeat(features, rows, 0), "mask": np.ones((rows, tokens), np.float32)}
        outputs = dict(zip(signature.prompt(LAYERS).outputs, prompt.run(None, feed), strict=True))
        assert outputs["text_key.1"].shape == (rows, 2, tokens, 32)
        assert all(np.isfinite(value).all() for value in outputs.values())
