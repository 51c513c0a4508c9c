"""What is asked of Polygraphy's loaders, and what is read back from the engine; TensorRT and loaders are stand-ins."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import signal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import polygraphy.backend.trt
import pytest
from polygraphy.exception import PolygraphyException

from toprovar import interruption
from toprovar.compiler.tensorrt.contract import read_graph_file
from toprovar.deployment import file_sha256
from toprovar.engines import EngineProfile, Span
from toprovar.errors import BackendError

from .stand_in import DataType, Network, Script, Severity, Tensor, install

PROFILES = [EngineProfile("scale 0, dense", 0, False, {"x": Span((1,), (2,), (4,))}, {})]
NODE = "blocks.0.ffn/MatMul_0"


class StandInEngine:
    """As `tensorrt.ICudaEngine`, as far as it is asked."""

    def __init__(self, **changes: Any) -> None:
        self.types = {"x": DataType.FLOAT, "y": DataType.FLOAT} | changes.pop("types", {})
        self.num_layers, self.num_optimization_profiles = 7, 2
        self.refittable = changes.pop("refittable", False)
        self.streamable_weights_size = 640
        self.hardware_compatibility_level = SimpleNamespace(name=changes.pop("level", "NONE"))

    @property
    def num_io_tensors(self) -> int:
        return len(self.types)

    def get_tensor_name(self, index: int) -> str:
        return list(self.types)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.types[name]

    def get_device_memory_size_for_profile_v2(self, profile: int) -> int:
        return (100, 300)[profile]


class StandInLoaders:
    """Polygraphy's loaders; every call must fit the real ones' parameters."""

    def __init__(self, engine: StandInEngine, error: str = "") -> None:
        self.engine, self.error = engine, error
        self.config: dict[str, Any] = {}
        self.caches: list[str] = []
        self.interrupts = False

    def install(self, module: ModuleType, monkeypatch: pytest.MonkeyPatch, host_code: bool = False) -> None:
        for name in ("CreateConfig", "EngineFromNetwork", "SaveEngine"):
            monkeypatch.setattr(module, name, self._checked(name, getattr(self, f"_{name}")))
        monkeypatch.setattr(module.library, "holds_host_code", lambda path: host_code)

    @staticmethod
    def _checked(name: str, stand_in: Any) -> Any:
        real = inspect.signature(getattr(polygraphy.backend.trt, name).__init__)

        def call(*arguments: Any, **options: Any) -> Any:
            real.bind(None, *arguments, **options)
            return stand_in(*arguments, **options)

        return call

    def _CreateConfig(self, **options: Any) -> str:
        self.config = options
        return "config"

    def _EngineFromNetwork(self, network: Any, config: Any, save_timing_cache: str) -> Any:
        assert config == "config"
        assert len(network) == 3
        self.caches.append(save_timing_cache)
        return self._build

    def _build(self) -> StandInEngine:
        monitor = self.config["progress_monitor"]
        monitor.phase_start("Tactic selection", None, 3)
        goes_on = monitor.step_complete("Tactic selection", 0)
        if self.interrupts:
            assert goes_on
            os.kill(os.getpid(), signal.SIGINT)
            assert not monitor.step_complete("Tactic selection", 1)
            raise PolygraphyException("Invalid Engine")
        monitor.phase_finish("Tactic selection")
        if self.error:
            raise PolygraphyException(self.error)
        return self.engine

    def _SaveEngine(self, build: Any, path: str) -> Any:
        def save() -> StandInEngine:
            engine = build()
            Path(path).write_bytes(b"engine")
            return engine

        return save


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], name=NODE)
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["R", 2]) for name in ("x", "y")]
    weight = onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    made = onnx.helper.make_graph([node], "g", values[:1], values[1:], [weight])
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 23)], ir_version=10)
    onnx.save(model, tmp_path / "prompt.onnx")
    return tmp_path / "prompt.onnx"


@dataclasses.dataclass
class Run:
    """One build."""

    monkeypatch: pytest.MonkeyPatch
    graph: Path
    told: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)

    def __call__(
        self, loaders: StandInLoaders, host_code: bool = False, script: Script | None = None, **options: Any
    ) -> Any:
        network = Network(0, [Tensor("x", DataType.FLOAT, (-1, 2))], [Tensor("y", DataType.FLOAT, (-1, 2))])
        install(self.monkeypatch, script or Script(network=network, said=[(Severity.WARNING, "careful")]))
        module = importlib.import_module("toprovar.compiler.tensorrt.build")
        loaders.install(module, self.monkeypatch, host_code)
        folder, stream = self.graph.parent, options.pop("stream_weights", False)
        return module.build_engine(
            read_graph_file(self.graph),
            PROFILES,
            folder / "engines" / "prompt.engine",
            module.BuildOptions(**options),
            folder / "timing.cache",
            stream,
            folder / "repro.onnx",
            lambda *step: self.told.append(step),
        )


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, graph: Path) -> Run:
    return Run(monkeypatch, graph)


def test_what_is_read_back(run: Run, graph: Path) -> None:
    loaders = StandInLoaders(StandInEngine())
    built = run(loaders)
    record = built.record
    assert (record.graph, record.file) == ("prompt", "engines/prompt.engine")
    assert record.graph_sha256 == file_sha256(graph)
    assert (record.layers, record.device_bytes) == (7, 300)
    assert (record.inputs, record.outputs) == ({"x": "float32"}, {"y": "float32"})
    assert (built.streamable_bytes, built.warnings) == (640, ("careful",))
    assert loaders.caches == [str(graph.parent / "timing.cache")]
    assert loaders.config["load_timing_cache"] is None
    (profile,) = loaders.config["profiles"]
    assert tuple(profile["x"].max) == (4,)


def test_options(run: Run, graph: Path) -> None:
    (graph.parent / "timing.cache").write_bytes(b"times")
    loaders = StandInLoaders(StandInEngine(refittable=True, level="AMPERE_PLUS"))
    options: dict[str, Any] = {"refittable": True, "version_compatible": True, "hardware_compatibility": "ampere_plus"}
    built = run(loaders, True, stream_weights=True, workspace=4096, optimization_level=5, **options)
    assert built.version_compatible
    assert loaders.config["hardware_compatibility_level"].name == "AMPERE_PLUS"
    assert list(loaders.config["memory_pool_limits"].values()) == [4096]
    assert loaders.config["weight_streaming"] is True
    assert loaders.config["load_timing_cache"] == str(graph.parent / "timing.cache")


@pytest.mark.parametrize(
    ("engine", "host_code", "options", "message"),
    [
        ({"types": {"y": DataType.HALF}}, False, {}, "y is float16, not float32"),
        ({}, False, {"refittable": True}, "refittable False, asked for True"),
        ({}, True, {}, "version compatible True, asked for False"),
        ({"level": "NONE"}, False, {"hardware_compatibility": "ampere_plus"}, "compatibility none, asked for ampere"),
    ],
)
def test_another_engine_than_asked_for(
    engine: dict[str, Any], host_code: bool, options: dict[str, Any], message: str, run: Run
) -> None:
    with pytest.raises(BackendError, match=message):
        run(StandInLoaders(StandInEngine(**engine)), host_code, **options)


def test_products_that_the_graph_does_not_have_in_eight_bits(run: Run) -> None:
    inputs, outputs = ([Tensor(name, DataType.FLOAT, (-1, 2))] for name in ("x", "y"))
    script = Script(network=Network(0, inputs, outputs, ["QUANTIZE to FP8"]))
    with pytest.raises(BackendError, match="TensorRT reads 1 products in eight bits from prompt; expected 0"):
        run(StandInLoaders(StandInEngine()), script=script)


def test_how_far_it_is(run: Run) -> None:
    run(StandInLoaders(StandInEngine()))
    assert run.told == [("Tactic selection", 0, 3), ("Tactic selection", 1, 3)]


def test_ctrl_c_stops_the_build(run: Run) -> None:
    loaders = StandInLoaders(StandInEngine())
    loaders.interrupts = True
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interruption.listen()
    try:
        with pytest.raises(KeyboardInterrupt):
            run(loaders)
    finally:
        interruption.listen()
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_an_error_names_its_module_and_leaves_a_small_graph(run: Run, graph: Path) -> None:
    error = f"no implementation for {NODE} (profile 0)"
    with pytest.raises(BackendError, match=r"cannot build prompt in blocks.0.ffn .* at scale 0, dense") as caught:
        run(StandInLoaders(StandInEngine(), error))
    assert str(graph.parent / "repro.onnx") in str(caught.value.hint)
    onnx.checker.check_model(str(graph.parent / "repro.onnx"))


def test_an_incomplete_library(run: Run, graph: Path) -> None:
    error = "Unable to load library: libnvinfer_builder_resource_sm90.so"
    with pytest.raises(BackendError, match="Unable to load library") as caught:
        run(StandInLoaders(StandInEngine(), error))
    assert "lacks a part for this GPU" in str(caught.value.hint)
    assert not (graph.parent / "engines" / "prompt.engine").exists()


def test_a_graph_that_is_refused(run: Run) -> None:
    script = Script(False, said=[(Severity.ERROR, "bad model")])
    with pytest.raises(BackendError, match=r"cannot build prompt \(bad model\)"):
        run(StandInLoaders(StandInEngine()), script=script)
