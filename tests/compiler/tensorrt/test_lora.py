"""A LoRA merged into graphs gives what the modules give with it: the names lead to the right weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.numpy import save_file
from torch import nn

from toprovar.compiler.tensorrt.contract import read_graph_file
from toprovar.compiler.tensorrt.lora import find_targets, merge_lora, read_lora
from toprovar.compiler.tensorrt.onnx_graphs import OnnxGraphs
from toprovar.compiler.tensorrt.verify import EngineVerifier
from toprovar.errors import CheckpointError, UsageError
from toprovar.pruning import Pruning

from .small import Exported, export_small

RANK = 2


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    model = export_small(Pruning("previous_scale", (1,)), patchify=False)
    return model.save(tmp_path_factory.mktemp("graphs"), "float32")


def backbone(exported: Exported) -> nn.Module:
    return exported.modules["dense"][0].backbone


def linears(exported: Exported) -> dict[str, nn.Parameter]:
    """Every matrix that a product of the model is made with, by its module's name."""
    found = {}
    for name, parameter in backbone(exported).named_parameters():
        if name.endswith(".weight") and parameter.dim() == 2 and "embed" not in name:
            found[name.removesuffix(".weight")] = parameter
    return found


def write_lora(path: Path, shapes: dict[str, tuple[int, int]], alpha: float | None = None) -> None:
    rng = np.random.default_rng(0)
    tensors = {}
    for name, (out, inside) in shapes.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = rng.normal(size=(RANK, inside)).astype(np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = 0.1 * rng.normal(size=(out, RANK)).astype(np.float32)
        if alpha is not None:
            tensors[f"base_model.model.{name}.alpha"] = np.array(alpha, np.float32)
    save_file(tensors, path)


def targets(exported: Exported) -> dict[str, object]:
    return dict(find_targets({name: ir.load(exported.folder / f"{name}.onnx") for name in ("step", "prompt")}))


def test_every_product_of_a_block_is_found(exported: Exported) -> None:
    found = targets(exported)
    for name in linears(exported):
        if "blocks" in name or "block_chunks" in name:
            assert name in found, name
    assert len({(one.graph, one.weight) for one in found.values()}) == len(found)  # type: ignore[attr-defined]


def test_merged_is_what_the_modules_give(exported: Exported, tmp_path: Path) -> None:
    """Every kind of product at once, each with a change of its own."""
    shutil.copytree(exported.folder, tmp_path / "graphs")
    known = targets(exported)
    weights = {name: one for name, one in linears(exported).items() if name in known}
    assert any(name.endswith("ca.mat_kv") for name in weights)
    assert any(name.endswith("sa.mat_qkv") for name in weights)
    write_lora(tmp_path / "lora.safetensors", {name: tuple(one.shape) for name, one in weights.items()}, alpha=3.0)
    lora = read_lora(tmp_path / "lora.safetensors")
    changed = merge_lora(tmp_path / "graphs", lora, strength=0.5)
    assert sum(changed.values()) == len(weights)
    for name in ("step", "prompt"):
        read_graph_file(tmp_path / "graphs" / f"{name}.onnx")
    before = {name: one.detach().clone() for name, one in weights.items()}
    contracts = {name: graph.signature for name, graph in exported.graphs.items()}
    judge = EngineVerifier(
        exported.modules,
        contracts,
        1,
        "float32",
        {
            "merged": OnnxGraphs(tmp_path / "graphs", "float32", tmp_path),
            "before": OnnxGraphs(exported.folder, "float32", tmp_path),
        },
    )
    try:
        for name, parameter in weights.items():
            with torch.no_grad():
                parameter += 0.5 * torch.from_numpy(lora[name].delta())
        checks = [check for case in exported.cases[:8] for check in judge.check(case)]
    finally:
        for name, parameter in weights.items():
            with torch.no_grad():
                parameter.copy_(before[name])
    assert [one for one in checks if one.failures and one.runner == "merged"] == []
    assert any(one.failures for one in checks if one.runner == "before")


def test_merged_into_eight_bits(exported: Exported, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """What is there in eight bits, with the LoRA added, rounded anew."""
    model = export_small(Pruning("previous_scale", (1,)), patchify=False)
    eight = model.save(tmp_path_factory.mktemp("eight"), "float8")
    found = targets(eight)
    assert found.keys() == targets(exported).keys()
    large = {name: one for name, one in found.items() if one.factors is not None}  # type: ignore[attr-defined]
    assert len(large) == len(eight.ranges.largest)
    shutil.copytree(eight.folder, tmp_path / "graphs")
    known = linears(eight)
    write_lora(tmp_path / "lora.safetensors", {name: tuple(known[name].shape) for name in large})
    lora = read_lora(tmp_path / "lora.safetensors")
    assert merge_lora(tmp_path / "graphs", lora) == {"step": len(large)}
    before, after = (ir.load(folder / "step.onnx").graph.initializers for folder in (eight.folder, tmp_path / "graphs"))
    for name, one in large.items():
        old, new = (
            graph[one.weight].const_value.numpy().astype(np.float32)  # type: ignore[attr-defined]
            * graph[one.factors].const_value.numpy().astype(np.float32)  # type: ignore[attr-defined]
            for graph in (before, after)
        )
        wanted = old + lora[name].delta().T
        assert (np.abs(new - wanted) <= np.maximum(np.abs(wanted) / 16, np.abs(wanted).max(0) * 2.0**-17)).all()
        assert not np.array_equal(new, old)
    assert OnnxGraphs(tmp_path / "graphs", "float8", tmp_path)("decode", None, decoded(eight))["image"].size


def decoded(exported: Exported) -> dict[str, np.ndarray]:
    return dict(next(case for case in exported.cases if case.graph == "decode").feed)


def test_alpha_and_spellings(tmp_path: Path) -> None:
    save_file(
        {
            "transformer.blocks.0.ffn.fc1.lora_down.weight": np.ones((4, 3), np.float32),
            "transformer.blocks.0.ffn.fc1.lora_up.weight": np.ones((5, 4), np.float32),
            "transformer.blocks.0.ffn.fc1.alpha": np.array(2.0, np.float32),
        },
        tmp_path / "lora.safetensors",
    )
    (one,) = read_lora(tmp_path / "lora.safetensors").items()
    assert one[0] == "blocks.0.ffn.fc1"
    np.testing.assert_array_equal(one[1].delta(), np.full((5, 3), 2.0))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"blocks.9.ffn.fc1": (64, 16)}, "changes blocks.9.ffn.fc1, which is no product of this model"),
        ({"head": (4, 4)}, r"the LoRA of head makes \(4, 4\); expected"),
    ],
)
def test_what_does_not_fit(
    shapes: dict[str, tuple[int, int]], message: str, exported: Exported, tmp_path: Path
) -> None:
    shutil.copytree(exported.folder, tmp_path / "graphs")
    write_lora(tmp_path / "lora.safetensors", shapes)
    with pytest.raises(UsageError, match=message):
        merge_lora(tmp_path / "graphs", read_lora(tmp_path / "lora.safetensors"))
    for path in exported.folder.iterdir():
        assert (tmp_path / "graphs" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a.lora_A.weight": np.ones((2, 3), np.float32)}, "a has one factor of two"),
        ({"a.weight": np.ones((2, 3), np.float32)}, "it holds no factors"),
    ],
)
def test_what_is_no_lora(tensors: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_lora(tmp_path / "lora.safetensors")
    (tmp_path / "lora.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_lora(tmp_path / "lora.safetensors")
