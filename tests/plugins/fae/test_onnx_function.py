"""The ONNX node and its body: exported by torch, accepted by the checker, run by ONNX Runtime."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch
from polygraphy.backend.base import BaseRunner
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.common import TensorMetadata
from polygraphy.comparator import Comparator, SimpleCompareFunc

from toprovar.plugins.fae.onnx_function import OPSET, add_function, function_proto, op_schema, translation_table
from toprovar.plugins.fae.reference import attention_with_entropy
from toprovar.plugins.fae.schema import SCHEMA

TYPES = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}


def single_node(dtype: str = "float32", opset: int = OPSET) -> onnx.ModelProto:
    """A model of nothing but the operator, with open batch and lengths."""
    values = {
        spec.name: onnx.helper.make_tensor_value_info(
            spec.name, TYPES[dtype if spec.dtypes == SCHEMA.inputs[0].dtypes else spec.dtypes[0]], list(spec.axes)
        )
        for spec in SCHEMA.inputs + SCHEMA.outputs
    }
    node = onnx.helper.make_node(
        SCHEMA.name,
        SCHEMA.input_names,
        SCHEMA.output_names,
        domain=SCHEMA.domain,
        **SCHEMA.plugin_attributes,
    )
    graph = onnx.helper.make_graph(
        [node], "g", [values[name] for name in SCHEMA.input_names], [values[name] for name in SCHEMA.output_names]
    )
    imports = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid(SCHEMA.domain, SCHEMA.version)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10)


def feeds(queries: int, keys: int, dtype: str = "float32", seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    shapes = {"q": (2, 4, queries, 32), "k": (2, 4, keys, 32), "v": (2, 4, keys, 32)}
    return {name: generator.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


class ReferenceRunner(BaseRunner):
    """The reference in float64, as a Polygraphy runner."""

    def __init__(self) -> None:
        super().__init__(name="reference")

    def get_input_metadata_impl(self) -> TensorMetadata:
        metadata = TensorMetadata()
        for spec in SCHEMA.inputs:
            metadata.add(spec.name, dtype=np.float32, shape=(-1,) * len(spec.axes))
        return metadata

    def infer_impl(self, feed_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        results = reference(feed_dict)
        self.inference_time = 0.0
        return dict(zip(SCHEMA.output_names, results, strict=True))


def reference(values: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    tensors = [torch.from_numpy(np.asarray(values[name])).double() for name in SCHEMA.input_names]
    output, entropy = attention_with_entropy(*tensors)
    return output.float().numpy(), entropy.float().numpy()


def run(model: onnx.ModelProto, values: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, values)


@pytest.mark.parametrize("opset", [OPSET, 20, 23])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (5, 1), (16, 70)])
def test_body_against_the_reference(queries: int, keys: int, opset: int) -> None:
    model = add_function(single_node(opset=opset))
    onnx.checker.check_model(model, full_check=True)
    session = SessionFromOnnx(model.SerializeToString(), providers=["cpu"])
    loader = [feeds(queries, keys, seed=seed) for seed in range(3)]
    runs = Comparator.run([OnnxrtRunner(session), ReferenceRunner()], data_loader=loader)
    compare = SimpleCompareFunc(atol=1e-5, rtol=0, check_error_stat="max")
    assert bool(Comparator.compare_accuracy(runs, compare_func=compare))


def test_half_inputs_are_taken_in_float32() -> None:
    values = feeds(9, 40, "float16")
    output, entropy = run(add_function(single_node("float16")), values)
    expected_output, expected_entropy = reference(values)
    assert output.dtype == np.float16
    np.testing.assert_allclose(output, expected_output, rtol=0, atol=np.finfo(np.float16).eps * 2)
    np.testing.assert_allclose(entropy, expected_entropy, rtol=0, atol=1e-5)


def test_bfloat16_loads() -> None:
    model = add_function(single_node("bfloat16"))
    onnx.checker.check_model(model, full_check=True)
    onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("size", [0.0, 1e4, -1e4])
def test_equal_scores(size: float) -> None:
    values = feeds(3, 50)
    values["q"], values["k"] = np.full_like(values["q"], size), np.full_like(values["k"], 1 / 32)
    _, entropy = run(add_function(single_node()), values)
    np.testing.assert_allclose(entropy, math.log(50), rtol=0, atol=1e-5)


def test_one_hot() -> None:
    values = feeds(3, 50)
    values["q"], values["k"] = np.ones_like(values["q"]), np.zeros_like(values["k"])
    values["k"][:, :, 7] = 1e4 / 32
    output, entropy = run(add_function(single_node()), values)
    np.testing.assert_array_equal(entropy, np.zeros_like(entropy))
    np.testing.assert_array_equal(output, np.broadcast_to(values["v"][:, :, 7:8], output.shape))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["q", "k", "v"])
def test_non_finite_in_non_finite_out(place: str, value: float) -> None:
    values = feeds(5, 20)
    values[place][0, 1, 3, 4] = value
    output, entropy = run(add_function(single_node()), values)
    assert not (np.isfinite(output).all() and np.isfinite(entropy).all())
    assert np.isfinite(output[1]).all()


class Block(torch.nn.Module):
    """Two attentions with weights around them, as an exported model has."""

    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(32, 32)

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output, first = torch.ops.toprovar.flash_attention_entropy(self.project(q), k, v)
        output, second = torch.ops.toprovar.flash_attention_entropy(self.project(output), k, v)
        return output, first + second


@pytest.fixture(scope="module")
def exported() -> tuple[Block, torch.onnx.ONNXProgram]:
    import toprovar.plugins.fae.torch_op  # noqa: F401  registers the operator

    block = Block().eval()
    auto = torch.export.Dim.AUTO
    tensors = tuple(torch.from_numpy(value) for value in feeds(6, 11).values())
    program = torch.onnx.export(
        block,
        tensors,
        dynamo=True,
        custom_translation_table=translation_table(),
        dynamic_shapes=tuple({0: auto, 2: auto} for _ in "qkv"),
        verbose=False,
    )
    return block, program


def nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == SCHEMA.name]


def test_export_emits_the_node_for_the_plugin(exported: tuple[Block, torch.onnx.ONNXProgram]) -> None:
    found = nodes(exported[1].model_proto)
    assert len(found) == 2
    for node in found:
        assert node.domain == SCHEMA.domain
        attributes = {attribute.name: attribute.s.decode() for attribute in node.attribute}
        assert attributes == SCHEMA.plugin_attributes


@pytest.mark.parametrize("form", ["proto", "ir"])
def test_exported_model_runs_in_onnx_runtime(
    form: str, exported: tuple[Block, torch.onnx.ONNXProgram], tmp_path: Path
) -> None:
    block, program = exported
    if form == "proto":
        model = add_function(program.model_proto)
    else:
        onnx_ir.save(add_function(program.model), tmp_path / "m.onnx", external_data="m.data")
        model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert len(model.functions) == 1
    values = feeds(4, 13, seed=3)
    with torch.no_grad():
        expected = block(*(torch.from_numpy(value) for value in values.values()))
    for ours, truth in zip(run(model, values), expected, strict=True):
        np.testing.assert_allclose(ours, truth.numpy(), rtol=0, atol=1e-5)


def test_weights_in_other_files_need_not_be_loaded(
    exported: tuple[Block, torch.onnx.ONNXProgram], tmp_path: Path
) -> None:
    onnx.save(exported[1].model_proto, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    model = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    onnx.save(add_function(model), tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, feeds(2, 3))[0].shape == (2, 4, 2, 32)


def test_adding_twice_changes_nothing() -> None:
    model = add_function(single_node())
    once = model.SerializeToString()
    assert add_function(model).SerializeToString() == once


def test_schema_agrees_with_the_function() -> None:
    schema, function = op_schema(), function_proto()
    assert [parameter.name for parameter in schema.inputs] == list(function.input)
    assert [parameter.name for parameter in schema.outputs] == list(function.output)
    assert {attribute.name for attribute in function.attribute_proto} == set(schema.attributes)


def test_an_old_opset_is_refused() -> None:
    with pytest.raises(ValueError, match="opset 17 is too old for FlashAttentionEntropy: export with 18 or later"):
        add_function(single_node(opset=17))
