"""A deployment for TensorRT: its graphs for real; its engines from stand-ins for TensorRT and the builder."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from toprovar.cli import group, run
from toprovar.compiler.tensorrt.contract import read_graph_file
from toprovar.compiler.tensorrt.verify import TOLERANCES
from toprovar.deployment import PLAN, Deployment, file_sha256
from toprovar.engines import ENGINES, EngineFile, Engines
from toprovar.errors import BackendError
from toprovar.input_ranges import INPUT_RANGES, InputRanges
from toprovar.pipeline import engines as building
from toprovar.pipeline.engines import TIMING_CACHE, EngineRequest, Source, build_engines
from toprovar.progress import Stages
from toprovar.runtime.tensorrt.preflight import Machine, check_engines

from ..tiny_nano import PROMPTS, as_nano

HERE = Machine("NVIDIA H200", "9.0", "10.15.1.29", "13.0", "13.0")
GRAPHS = ["text", "prompt", "step", "decode"]


def command(weights: Path, *arguments: str | Path, cache: Path | None = None) -> int:
    with as_nano(weights, cache):
        return run(group, "toprovar", list(map(str, arguments)))


@pytest.fixture(scope="module")
def portable(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portable")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    options = ["--prompts", folder / "prompts.txt", "--resolution", "0.06M", "--target-flops", "0.7", "--no-report"]
    code = command(
        weights, "compile", "nano", "-o", folder / "nano", "--backend", "tensorrt", "--portable", "--json", *options
    )
    assert code == 0
    return folder / "nano"


@pytest.fixture
def deployment(portable: Path, tmp_path: Path) -> Path:
    shutil.copytree(portable, tmp_path / "nano")
    return tmp_path / "nano"


def test_graphs_and_no_engines(portable: Path) -> None:
    opened = Deployment.open(portable)
    assert (opened.manifest.backend, opened.manifest.precision) == ("tensorrt", "bf16")
    assert {path.stem for path in (portable / "graphs").glob("*.onnx")} == set(GRAPHS)
    assert sorted(path.name for path in portable.iterdir()) == [
        "graphs",
        "manifest.json",
        "plan.json",
        "report",
        "text",
    ]
    checks = json.loads((portable / "report" / "verify.json").read_text())
    assert {one["graph"].partition(" in ")[2] for one in checks} == {"onnxruntime"}


def test_without_tensorrt(
    weights: Path, deployment: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert command(weights, "run", deployment, PROMPTS[0], "-o", deployment.parent / "image.png") == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        f"error: {deployment} holds no TensorRT engines (no {ENGINES}); "
        f"build them here with `toprovar build {deployment}`"
    )
    assert command(weights, "build", deployment) == 1
    assert "error: tensorrt is not installed; expected the extra" in capsys.readouterr().err
    assert command(weights, "compile", "nano", "-o", deployment.parent / "new", "--backend", "tensorrt") == 1
    assert "add --portable" in capsys.readouterr().err
    assert not (deployment.parent / "new").exists()


def test_verify(weights: Path, deployment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(weights, "verify", deployment, "--json") == 0
    written = capsys.readouterr().out
    summary = json.loads(written[written.index("\n{") :])
    assert summary["runners"] == ["onnxruntime"]
    record = json.loads((deployment / "report" / "graphs.json").read_text())
    assert {one["rows"] for one in record["checks"]} >= {1, 2, 4}
    assert {one["sparse"] for one in record["checks"]} == {False, True}
    Deployment.open(deployment)


def test_verify_finds_a_changed_weight(weights: Path, deployment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.memmap(deployment / "graphs" / "weights.bin", np.uint16, "r+")
    decode = ir.load(deployment / "graphs" / "decode.onnx").graph
    weight = max((value.const_value for value in decode.initializers.values()), key=lambda one: one.nbytes)
    data[weight.offset // 2 : (weight.offset + weight.nbytes) // 2] = 0
    data.flush()
    manifest = json.loads((deployment / "manifest.json").read_text())
    manifest["files"]["graphs/weights.bin"] = file_sha256(deployment / "graphs" / "weights.bin")
    (deployment / "manifest.json").write_text(json.dumps(manifest))
    assert command(weights, "verify", deployment) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "graph calls differ from torch, first decode in onnxruntime: image" in line
    page = (deployment / "report" / "graphs.html").read_text()
    assert page.count("<details open>") == page.count("failed: image") > 0


@pytest.fixture(scope="module")
def eight(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in fp8."""
    folder = tmp_path_factory.mktemp("eight")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    options = ["--prompts", folder / "prompts.txt", "--resolution", "0.06M", "--target-flops", "0.7", "--no-report"]
    arguments = ["--backend", "tensorrt", "--precision", "fp8", "--portable", "--json", *options]
    assert command(weights, "compile", "nano", "-o", folder / "nano", *arguments) == 0
    return folder / "nano"


def test_fp8(weights: Path, eight: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = Deployment.open(eight)
    assert opened.manifest.precision == "fp8"
    assert INPUT_RANGES in opened.manifest.files
    ranges = InputRanges.load(eight / INPUT_RANGES)
    assert (ranges.model_sha256, ranges.prompts) == (opened.manifest.model.sha256, PROMPTS)
    assert ranges.scales == len(opened.plan.scales)
    assert len(ranges.largest) == 4 * opened.manifest.model.layers
    step = read_graph_file(eight / "graphs" / "step.onnx")
    assert (step.products, step.quantized) == ("float8", len(ranges.largest))
    checks = json.loads((eight / "report" / "verify.json").read_text())
    assert all(one["passed"] for one in checks)
    capsys.readouterr()
    assert command(weights, "verify", eight, "--json") == 0
    record = json.loads((eight / "report" / "graphs.json").read_text())
    assert record["precision"] == "float8"
    assert record["tolerance"] == dataclasses.asdict(TOLERANCES["float8"])


def test_fp8_finds_a_wrong_scale(weights: Path, eight: Path, tmp_path: Path) -> None:
    """An input that is cut off at an eighth of its range."""
    shutil.copytree(eight, tmp_path / "nano")
    model = ir.load(tmp_path / "nano" / "graphs" / "step.onnx")
    for name in ("float", "bfloat16"):
        scale = model.graph.initializers[f"blocks.1.ffn.fc2.input_scale_{name}"]
        assert scale.const_value is not None
        scale.const_value = ir.tensor(scale.const_value.numpy() / 64, name=scale.name)
    ir.save(model, tmp_path / "nano" / "graphs" / "step.onnx")
    manifest = json.loads((tmp_path / "nano" / "manifest.json").read_text())
    manifest["files"]["graphs/step.onnx"] = file_sha256(tmp_path / "nano" / "graphs" / "step.onnx")
    (tmp_path / "nano" / "manifest.json").write_text(json.dumps(manifest))
    assert command(weights, "verify", tmp_path / "nano") == 1


class Builder:
    """Stands in for `toprovar.compiler.tensorrt.build`, which needs TensorRT: writes a file for each engine."""

    def __init__(self) -> None:
        self.built: list[str] = []
        self.options: Any = None
        self.streamed = False
        self.fails: Callable[[str], None] = lambda name: None

    def build_engine(
        self,
        graph: Any,
        profiles: Any,
        target: Path,
        options: Any,
        timing: Path,
        streamed: bool,
        repro: Path,
        tell: Callable[[str, int, int], None],
    ) -> Any:
        name = graph.path.stem
        tell("Tactic selection", 1, 2)
        timing.write_bytes(timing.read_bytes() + b"." if timing.exists() else b".")
        self.fails(name)
        target.write_bytes(f"engine {len(self.built)}".encode())
        self.built.append(name)
        self.options, self.streamed = options, streamed
        record = EngineFile(
            name,
            f"engines/{target.name}",
            file_sha256(target),
            file_sha256(graph.path),
            tuple(profiles),
            {key: graph.types[key] for key in graph.contract.inputs},
            {key: graph.types[key] for key in graph.contract.outputs},
            3,
            100,
            1.0,
        )
        return SimpleNamespace(
            record=record,
            version_compatible=options.version_compatible,
            hardware_compatibility=options.hardware_compatibility,
            refittable=options.refittable,
            streamable_bytes=0,
            warnings=("careful",),
        )


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Builder:
    made = Builder()
    module = types.ModuleType("toprovar.compiler.tensorrt.build")
    module.build_engine = made.build_engine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    library = SimpleNamespace(this_machine=lambda: HERE)
    monkeypatch.setattr(building, "open_library", lambda: library)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8 << 30, 8 << 30))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


def build(folder: Path, **options: Any) -> Engines:
    opened = Deployment.open(folder)
    manifest = opened.manifest
    source = Source(folder, manifest.model, opened.plan, file_sha256(folder / PLAN), manifest.text)
    with Stages() as stages:
        return build_engines(source, EngineRequest(**options), stages)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"graphs", "manifest.json", "plan.json", "report", "text"}


def test_engines_that_fit_this_machine(deployment: Path, builder: Builder) -> None:
    engines = build(deployment, images=2)
    assert builder.built == GRAPHS
    assert Engines.load(deployment / ENGINES) == engines
    assert (engines.precision, engines.images, engines.gpu, engines.driver) == ("bfloat16", 2, "NVIDIA H200", "13.0")
    check_engines(engines, Deployment.open(deployment), HERE)
    assert left(deployment) == {"engines"}
    assert (deployment / "engines" / TIMING_CACHE).read_bytes() == b"...."
    step = next(one for one in engines.files if one.graph == "step")
    scales = {(profile.scale, profile.sparse) for profile in step.profiles}
    assert {scale for scale, _ in scales} == set(range(7))
    assert any(sparse for _, sparse in scales)


def test_engines_in_fp8(eight: Path, tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(eight, tmp_path / "nano")
    engines = build(tmp_path / "nano")
    assert engines.precision == "float8"
    assert next(one for one in engines.files if one.graph == "step").outputs["new_key.0"] == "bfloat16"
    check_engines(engines, Deployment.open(tmp_path / "nano"), HERE)
    older = dataclasses.replace(HERE, gpu="NVIDIA A100", compute_capability="8.0")
    monkeypatch.setattr(building, "open_library", lambda: SimpleNamespace(this_machine=lambda: older))
    with pytest.raises(BackendError, match=r"NVIDIA A100 \(8.0\) has no products in fp8; expected .* 8.9 or later"):
        build(tmp_path / "nano")


def test_built_again(deployment: Path, builder: Builder) -> None:
    first = build(deployment)
    (deployment.parent / "cache" / "toprovar" / "tensorrt" / "10.15.1.29-NVIDIA-H200.cache").unlink()
    second = build(deployment)
    # What the deployment brings is where the second build starts.
    assert (deployment / "engines" / TIMING_CACHE).read_bytes() == b"." * 8
    assert [one.sha256 for one in first.files] != [one.sha256 for one in second.files]
    assert left(deployment) == {"engines"}


@pytest.mark.parametrize("error", [BackendError("TensorRT cannot build step", "report it"), KeyboardInterrupt()])
def test_a_build_that_fails_leaves_what_was_there(error: BaseException, deployment: Path, builder: Builder) -> None:
    before = build(deployment)

    def fails(name: str) -> None:
        if name == "step":
            raise error

    builder.fails = fails
    with pytest.raises(type(error)):
        build(deployment)
    assert Engines.load(deployment / ENGINES) == before
    check_engines(before, Deployment.open(deployment), HERE)
    assert left(deployment) == {"engines"}
    # What was measured until then is kept.
    cache = deployment.parent / "cache" / "toprovar" / "tensorrt" / "10.15.1.29-NVIDIA-H200.cache"
    assert cache.read_bytes() == b"." * 7


def test_too_little_memory(deployment: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 20, 8 << 30))
    with pytest.raises(BackendError, match=r"needs about .* GiB of GPU memory beside its weights"):
        build(deployment)
    assert (builder.built, left(deployment)) == ([], set())


def test_weights_are_streamed_where_they_do_not_fit(
    deployment: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not build(deployment).weight_streaming
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("GPU memory: about"))
    assert line.endswith("8.0 GiB are free")
    assert build(deployment, stream_weights=True).weight_streaming
    assert builder.streamed


def test_a_deployment_of_another_backend(compiled: Any, builder: Builder, tmp_path: Path) -> None:
    shutil.copytree(compiled.folder, tmp_path / "nano")
    with pytest.raises(BackendError, match="holds no graphs for TensorRT") as caught:
        build(tmp_path / "nano")
    assert caught.value.hint == "compile the model with --backend tensorrt"


def test_the_command(weights: Path, deployment: Path, builder: Builder, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--images", "3", "--plugin", "just-in-time", "--refittable", "--hardware-compatible", "ampere-plus"]
    assert command(weights, "build", deployment, *arguments, "--workspace", "64", "--effort", "5") == 0
    assert "4 engines for NVIDIA H200, TensorRT 10.15.1.29" in capsys.readouterr().out
    engines = Engines.load(deployment / ENGINES)
    assert (engines.images, engines.plugin, engines.refittable) == (3, "just_in_time", True)
    assert engines.hardware_compatibility == "ampere_plus"
    assert (builder.options.workspace, builder.options.optimization_level) == (64 << 20, 5)


def test_compile_builds_too(weights: Path, tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    from toprovar.pipeline.builds import tensorrt

    monkeypatch.setattr(tensorrt, "open_library", building.open_library)
    (tmp_path / "prompts.txt").write_text(PROMPTS[0])
    options = ["--prompts", tmp_path / "prompts.txt", "--resolution", "0.06M", "--policy", "dense", "--no-report"]
    folder = tmp_path / "new"
    assert (
        command(weights, "compile", "nano", "-o", folder, "--backend", "tensorrt", "--no-verify", *options, "--json",
                "--precision", "fp32") == 0
    )  # fmt: skip
    opened = Deployment.open(folder)
    engines = Engines.load(folder / ENGINES)
    assert (engines.precision, opened.manifest.precision) == ("float32", "fp32")
    check_engines(engines, opened, HERE)
    assert not any(name.startswith("engines/") for name in opened.manifest.files)
    # Built anew, the deployment is still what its manifest says.
    build(folder)
    Deployment.open(folder)
    changed = dataclasses.replace(HERE, gpu="NVIDIA L4", compute_capability="8.9")
    with pytest.raises(BackendError, match=r"built for NVIDIA H200 \(9.0\), this is NVIDIA L4"):
        check_engines(engines, opened, changed)


def test_fp8_wants_a_gpu_that_has_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from toprovar.pipeline.builds import tensorrt

    older = dataclasses.replace(HERE, gpu="NVIDIA A100", compute_capability="8.0")
    monkeypatch.setattr(tensorrt, "open_library", lambda: SimpleNamespace(this_machine=lambda: older))
    arguments = ["-o", tmp_path / "new", "--backend", "tensorrt", "--precision", "fp8"]
    assert command(weights, "compile", "nano", *arguments) == 1
    assert "NVIDIA A100 (8.0) has no products in fp8" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_plan_cannot_be_searched_for(
    weights: Path, tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    options = ["--prompts", tmp_path / "prompts.txt", "--resolution", "0.06M", "--target-speedup", "1.2", "--portable"]
    assert command(weights, "compile", "nano", "-o", tmp_path / "new", "--backend", "tensorrt", *options) == 2
    assert "a plan cannot be searched for on TensorRT" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
