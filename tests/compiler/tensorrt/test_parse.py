"""What the compiler asks of TensorRT's parser and reads from its network; TensorRT is a stand-in."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from toprovar.engines import EngineProfile, Span
from toprovar.errors import BackendError
from toprovar.signature import Signature

from .stand_in import DataType, Network, ParserError, Script, Severity, Tensor, install

CONTRACT = Signature({"x": ("R", "L"), "kept": ("layers",)}, {"y": ("R", "L"), "new_key.0": ("K", "R", "H", "D")})
TYPES = {"x": "bfloat16", "kept": "int64", "y": "float32", "new_key.0": "bfloat16"}


def profiles(count: int = 2) -> list[EngineProfile]:
    shapes = {"x": Span((1, 8), (2, 8), (4, 8)), "kept": Span((1,), (1,), (1,))}
    values = {"kept": Span((3,), (3,), (3,))}
    return [EngineProfile(f"scale {scale}", scale, False, shapes, values) for scale in range(count)]


def network() -> Network:
    inputs = [Tensor("x", DataType.BF16, (-1, 8)), Tensor("kept", DataType.INT64, (1,), True)]
    outputs = [Tensor("y", DataType.FLOAT, ()), Tensor("new_key.0", DataType.BF16, ())]
    return Network(0, inputs, outputs, ["PLUGIN_V3", "CONSTANT", "PLUGIN_V3"])


def parse(script: Script, monkeypatch: pytest.MonkeyPatch, plugins: int = 2, **options: Any) -> Any:
    install(monkeypatch, script, options.pop("lacks", ""))
    module = importlib.import_module("toprovar.compiler.tensorrt.parse")
    return module.parse_graph(Path("step.onnx"), CONTRACT, options.pop("profiles", profiles()), plugins, **options)


class Output(Tensor):
    """A tensor whose shape follows its network's first input."""

    def __init__(self, name: str, dtype: DataType, first: Tensor, cache: bool) -> None:
        self._first, self._cache = first, cache
        super().__init__(name, dtype, ())

    @property  # type: ignore[override]
    def shape(self) -> tuple[int, ...]:
        return (-1, self._first.shape[0], -1, -1) if self._cache else tuple(self._first.shape)

    @shape.setter
    def shape(self, value: tuple[int, ...]) -> None:
        pass


def inferring() -> Network:
    made = network()
    made.outputs = [
        Output("y", DataType.FLOAT, made.inputs[0], False),
        Output("new_key.0", DataType.BF16, made.inputs[0], True),
    ]
    return made


def test_a_network_as_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(network=inferring(), said=[(Severity.WARNING, "slow"), (Severity.WARNING, "slow")])
    parsed = parse(script, monkeypatch, types=TYPES)
    assert parsed.problems == ()
    assert parsed.warnings == ("slow",)
    assert (parsed.graph, parsed.plugins, parsed.quantized, parsed.profiles) == ("step", 2, 0, 2)
    assert parsed.layers == {"CONSTANT": 1, "PLUGIN_V3": 2}
    assert parsed.shape_inputs == ("kept",)
    assert parsed.inputs == {"x": "bfloat16", "kept": "int64"}
    assert script.network.flags == 1 << 1 | 1 << 3
    assert script.config is not None
    first = script.config.profiles[0]
    assert first.shapes == {"x": ((1, 8), (2, 8), (4, 8))}
    assert first.values == {"kept": ((3,), (3,), (3,))}


def test_what_is_not_as_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(network=inferring(), profiles=1)
    parsed = parse(script, monkeypatch, plugins=3, types=TYPES | {"y": "bfloat16"})
    assert parsed.problems == (
        "2 plugins; expected 3",
        "scale 1: refused ()",
        "y is float32; expected bfloat16",
    )


def test_products_in_eight_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = inferring()
    made.kinds += ["QUANTIZE to FP8", "DEQUANTIZE to BF16", "QUANTIZE to INT8"]
    parsed = parse(Script(network=made), monkeypatch, quantized=2)
    assert parsed.problems == ("1 products in eight bits; expected 2",)
    assert parsed.layers["QUANTIZE"] == 2


def test_shapes_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    made = inferring()
    made.outputs[0] = Tensor("y", DataType.FLOAT, (2, 8))
    problems = parse(Script(network=made), monkeypatch, profiles=profiles(1)).problems
    assert problems == (
        "scale 0, least: y is (2, 8); expected (1, 8)",
        "scale 0, most: y is (2, 8); expected (4, 8)",
    )


@pytest.mark.parametrize(
    ("script", "reason", "node"),
    [
        (
            Script(False, [ParserError("Attention", "no kernel", "blocks.0.sa/Attention_3")]),
            "Attention: no kernel",
            "blocks.0.sa/Attention_3",
        ),
        (Script(False, said=[(Severity.ERROR, "no such file")]), "no such file", ""),
        (Script(False), "the parser gave no reason", ""),
    ],
    ids=["a node", "a message", "nothing"],
)
def test_a_refusal(script: Script, reason: str, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, script)
    failed = importlib.import_module("toprovar.compiler.tensorrt.network").ParsingFailed
    module = importlib.import_module("toprovar.compiler.tensorrt.parse")
    with pytest.raises(failed) as caught:
        module.parse_graph(Path("step.onnx"), CONTRACT, profiles(), 0)
    assert (caught.value.reason, caught.value.node) == (reason, node)


def test_the_form_of_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(network=inferring())
    parse(script, monkeypatch, plugin="just_in_time")
    assert script.network.flags == 1 << 1 | 1 << 2


def test_a_version_without_other_networks_than_typed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(network=inferring())
    parse(script, monkeypatch, lacks="STRONGLY_TYPED")
    assert script.network.flags == 1 << 3


def test_a_version_without_ahead_of_time_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"has no PREFER_AOT_PYTHON_PLUGINS; expected 10\.12"):
        parse(Script(network=inferring()), monkeypatch, lacks="PREFER_AOT_PYTHON_PLUGINS")
