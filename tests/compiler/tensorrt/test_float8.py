"""Products in eight bits: how numbers are rounded, what stands in the graph, and that ONNX Runtime computes it."""

from __future__ import annotations

import collections
import copy
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from toprovar.compiler.tensorrt.contract import read_graph_file
from toprovar.compiler.tensorrt.float8 import LARGE_PRODUCTS, LARGEST, input_scale, is_large, round_weight
from toprovar.compiler.tensorrt.graphs import STEP, lower
from toprovar.compiler.tensorrt.passes import passes_for
from toprovar.compiler.tensorrt.range_meter import RangeMeter
from toprovar.errors import ArtefactError, CheckpointError, UsageError
from toprovar.input_ranges import InputRanges
from toprovar.models.step import ScaleStep, sample_bits
from toprovar.pruning import Pruning

from .small import Exported, Model, export_small, graph_of

EIGHT, HALF, FULL = ir.DataType.FLOAT8E4M3FN, ir.DataType.BFLOAT16, ir.DataType.FLOAT
STEP_SIZE = 2.0**-4
"""Largest relative error of rounding to E4M3, for numbers that are not too small."""


@pytest.fixture(scope="module")
def model() -> Model:
    """Computes half of the tokens, and none of a layer at the last scale."""
    return export_small(Pruning("previous_scale", (1,)), patchify=False)


@pytest.fixture(scope="module")
def exported(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return model.save(tmp_path_factory.mktemp("float8"), "float8")


def backbone(exported: Exported) -> nn.Module:
    module = exported.modules["dense"][0].backbone
    assert isinstance(module, nn.Module)
    return module


@pytest.mark.parametrize("largest", [1e-6, 0.3, 1.0, 358.4, 358.5, 7e4])
def test_scales_are_powers_of_two_that_hold_the_range(largest: float) -> None:
    scale = input_scale(largest, "fc1")
    assert np.log2(scale).is_integer()
    assert largest <= 1.25 * largest <= scale * LARGEST < 2.5 * largest * 1.0001
    assert np.array(scale, HALF.numpy()).astype(np.float64) == scale


@pytest.mark.parametrize(
    ("largest", "message"),
    [(0.0, "the input of a.fc1 is zero"), (np.inf, "the input of a.fc1 is not finite"), (np.nan, "is not finite")],
)
def test_ranges_that_give_no_scale(largest: float, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        input_scale(largest, "a.fc1")
    assert "--precision bf16" in str(caught.value)


def test_weights_keep_their_digits_output_by_output() -> None:
    weight = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32) * np.logspace(-9, 9, 6, dtype=np.float32)
    weight[:, 3] = 0
    rounded = round_weight(weight, "fc1")
    assert (np.log2(rounded.factors) % 1 == 0).all()
    assert np.abs(rounded.values.astype(np.float32)).max() <= LARGEST
    error = np.abs(rounded.matrix() - weight)
    assert (error <= np.maximum(np.abs(weight) * STEP_SIZE, np.abs(weight).max(0) * 2.0**-17)).all()
    exact = np.linspace(-LARGEST, LARGEST, 57, dtype=np.float32).reshape(57, 1) // 32 * 32
    np.testing.assert_array_equal(round_weight(exact, "fc1").matrix(), exact)
    weight[2, 1] = np.nan
    with pytest.raises(CheckpointError, match="fc1 holds numbers that are not finite"):
        round_weight(weight, "fc1")


def test_the_meter_keeps_the_largest_of_all_calls(exported: Exported) -> None:
    case = next(case for case in exported.cases if case.graph == "dense")
    module, contract = exported.modules["dense"]
    tensors = [torch.from_numpy(case.feed[name]) for name in contract.inputs]
    start = list(contract.inputs).index("x")
    seen: dict[str, list[float]] = collections.defaultdict(list)

    def draw(factor: float) -> None:
        with torch.inference_mode():
            module(*tensors[:start], tensors[start] * factor, *tensors[start + 1 :])

    def keep(name: str, given: Tensor) -> None:
        seen[name].append(float(given.abs().max()))

    watched = {name: one for name, one in backbone(exported).named_modules() if is_large(name)}
    hooks = [
        one.register_forward_pre_hook(lambda module, given, name=name: keep(name, given[0]))
        for name, one in watched.items()
    ]
    try:
        with RangeMeter(backbone(exported)) as meter:
            for factor in (1.0, 3.0, 0.5):
                draw(factor)
        largest = {name: max(values) for name, values in seen.items()}
        draw(100.0)
    finally:
        for hook in hooks:
            hook.remove()
    assert {name.rpartition(".module.0.")[2] for name in seen} == set(LARGE_PRODUCTS)
    assert meter.modules == tuple(seen)
    assert meter.largest() == largest


@pytest.fixture(scope="module")
def step(exported: Exported) -> ir.Graph:
    return ir.load(exported.folder / f"{STEP}.onnx").graph


def products(step: ir.Graph) -> dict[str, ir.Node]:
    """Products of a module with a weight of its own, by the module's name."""
    found = {}
    for node in step:
        module, _, kind = (node.name or "").rpartition("/")
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        before = None if weight is None else weight.producer()
        eight = before is not None and before.op_type == "DequantizeLinear"
        if kind.startswith("MatMul") and weight is not None and (eight or weight.is_initializer()):
            found[module.removeprefix("backbone.")] = node
    return found


def test_every_large_product_takes_eight_bits_and_no_other(exported: Exported, step: ir.Graph) -> None:
    found = products(step)
    large = {name for name in found if is_large(name)}
    assert large == set(exported.ranges.largest)
    assert {name.rpartition(".0.")[2] for name in found if name not in large} >= {"ca.mat_q", "ca.proj"}
    for name, node in found.items():
        assert (node.inputs[0] is not None and node.inputs[0].producer() is not None) or name not in large
        kinds = {
            value.producer().op_type for value in node.inputs if value is not None and value.producer() is not None
        }
        assert ("DequantizeLinear" in kinds) == (name in large), name
    assert read_graph_file(exported.folder / f"{STEP}.onnx").quantized == len(large)
    assert read_graph_file(exported.folder / f"{STEP}.onnx").products == "float8"
    for other in ("prompt", "decode"):
        assert read_graph_file(exported.folder / f"{other}.onnx").quantized == 0


def test_the_form_that_tensorrt_fuses(exported: Exported, step: ir.Graph) -> None:
    """One scale for each operand, of the types that a strongly typed network wants; nothing but a scale between."""
    for name, node in products(step).items():
        if not is_large(name):
            continue
        given, weight = (value.producer() for value in node.inputs)
        assert given.op_type == weight.op_type == "DequantizeLinear"
        rounded = given.inputs[0].producer()
        assert rounded.op_type == "QuantizeLinear"
        assert rounded.outputs[0].dtype == EIGHT
        assert rounded.inputs[0].dtype == rounded.inputs[1].dtype
        assert rounded.inputs[2].dtype == given.inputs[2].dtype == EIGHT
        assert rounded.inputs[0].producer().op_type != "Cast", name
        scales = [one.inputs[1].const_value for one in (rounded, given, weight)]
        assert all(scale.shape == () for scale in scales)
        assert scales[0].numpy() == scales[1].numpy() == input_scale(exported.ranges.largest[name], name)
        assert {scales[1].dtype, scales[2].dtype, given.outputs[0].dtype, weight.outputs[0].dtype} == {HALF}
        assert weight.inputs[0].dtype == EIGHT
        assert weight.inputs[0].const_value is not None
        (times,) = node.outputs[0].consumers()
        assert (times.op_type, times.inputs[1].dtype) == ("Mul", HALF)
        assert not (np.log2(times.inputs[1].const_value.numpy().astype(np.float64)) % 1).any()


def test_valid_onnx_and_half_the_weights(model: Model, exported: Exported, tmp_path: Path) -> None:
    onnx.checker.check_model(str(exported.folder / f"{STEP}.onnx"), full_check=True)
    halves = model.save(tmp_path, "bfloat16")
    small, large = (read_graph_file(one.folder / f"{STEP}.onnx") for one in (exported, halves))
    assert small.types == large.types
    assert small.contract == large.contract
    weights = [parameter.numel() for name, parameter in linears(exported).items() if is_large(name)]
    factors = [len(parameter) for name, parameter in linears(exported).items() if is_large(name)]
    scales = large.weight_bytes - sum(weights) + 2 * sum(factors) - small.weight_bytes
    assert -200 < scales < 0  # scales, the same zero and one for all


def linears(exported: Exported) -> dict[str, Tensor]:
    """Weights [out, in] of products of the blocks, by the names of the modules that their inputs are given to."""
    return {
        name.removesuffix(".weight").removesuffix(".mat_qkv"): parameter
        for name, parameter in backbone(exported).named_parameters()
        if re.search(r"\.(sa|ca|ffn)\.\w+\.weight$", name)
    }


def rounded_to(value: Tensor, scale: float) -> Tensor:
    """As QuantizeLinear and DequantizeLinear, in float64."""
    eight = (value / scale).clamp(-LARGEST, LARGEST).float().to(torch.float8_e4m3fn)
    return eight.double() * scale


@pytest.fixture(scope="module")
def emulated(exported: Exported) -> ScaleStep:
    """The dense step in float64, with operands rounded as in the graph: the large ones' to E4M3, others' weights to
    bfloat16."""
    step = copy.deepcopy(exported.modules["dense"][0]).double()
    assert isinstance(step, ScaleStep)
    assert isinstance(step.backbone, nn.Module)
    weights = dict(step.backbone.named_parameters())
    with torch.no_grad():
        for name, weight in linears(exported).items():
            half = weight.detach().bfloat16().float()
            key = next(key for key in (f"{name}.weight", f"{name}.mat_qkv.weight") if key in weights)
            value = torch.from_numpy(round_weight(half.numpy().T, name).matrix().T.copy()) if is_large(name) else half
            weights[key].copy_(value)
    for name, module in step.backbone.named_modules():
        if is_large(name):
            scale = input_scale(exported.ranges.largest[name], name)
            module.register_forward_pre_hook(
                lambda module, given, scale=scale: (rounded_to(given[0], scale), *given[1:])
            )
    return step


def dense_cases(exported: Exported) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
    session = exported.sessions()[STEP]
    for case in exported.cases:
        if case.graph == "dense":
            yield dict(case.feed), exported.run(session, case)
    assert graph_of(case) in exported.graphs


def test_onnxruntime_computes_what_float64_does(exported: Exported, emulated: ScaleStep) -> None:
    """The same numbers, but where float32's last digit makes an element round to its other neighbour."""
    contract = exported.modules["dense"][1]
    worst, shares = [], []
    for feed, actual in dense_cases(exported):
        tensors = [torch.from_numpy(np.asarray(feed[name], order="C")) for name in contract.inputs]
        wide = [one.double() if one.is_floating_point() else one for one in tensors]
        given = dict(zip(contract.inputs, wide, strict=True))
        with torch.inference_mode():
            blocks = emulated.run_blocks(given)
            bits = sample_bits(emulated.guided_logits(blocks.hidden, given), given["noise"], given["certain"])
        assert (actual["bits"] == bits.numpy()).mean() >= 0.99
        for layer in range(2):
            past = feed[f"past_value.{layer}"].shape[2]
            new = blocks.presents[2 * layer + 1][:, :, past:].permute(2, 0, 1, 3).numpy()
            # A dense scale may have its tokens in another order, which attention does not see.
            error = np.abs(np.sort(actual[f"new_value.{layer}"], 0) - np.sort(new, 0)) / np.abs(new).max()
            worst.append(error.max())
            shares.append((error < 1e-6).mean())
    assert max(worst) < STEP_SIZE
    assert min(shares) > 0.98


def test_ranges_of_another_model(model: Model, exported: Exported) -> None:
    fewer = dict.fromkeys(list(exported.ranges.largest)[1:], 1.0)
    graph = next(one for one in model.exported if one.name == STEP)
    with pytest.raises(ValueError, match=r"step and the ranges of its inputs differ in block_chunks\.0\.module\.0\."):
        lower(graph, model.plan, "float8", dataclasses.replace(exported.ranges, largest=fewer))
    with pytest.raises(UsageError, match="float8 wants to know how large the products' inputs are"):
        passes_for("float8")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_record_of_ranges_holds_numbers(value: float) -> None:
    with pytest.raises(ArtefactError, match=r"largest\.fc1"):
        InputRanges("0" * 64, ("a",), 4, {"fc1": value})
