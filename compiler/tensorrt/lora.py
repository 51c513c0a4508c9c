"""Merges a LoRA into the weights of a deployment's graphs, whose names the exporter has changed.

A product of the graph is named after its module, and takes its weight turned over: [in, out] where the checkpoint has
[out, in]. Two products are named otherwise. That of a self-attention's queries, keys and values bears the attention's
name. Those of the cross-attention's keys and values lie in the prompt's graph, where no module calls them; they are
found by what they lead to. A weight that lies in the graph in eight bits is rounded anew, from the eight bits that are
there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from safetensors import SafetensorError
from safetensors.numpy import load_file

from toprovar.compiler.tensorrt.float8 import RoundedWeight, round_weight
from toprovar.compiler.tensorrt.passes.name_nodes import module_of_name
from toprovar.compiler.weights import WEIGHTS_FILE
from toprovar.errors import CheckpointError, UsageError

__all__ = ["LoRA", "Target", "find_targets", "merge_lora", "read_lora"]

_BACKBONE = "backbone."
_PREFIXES = ("base_model.model.", "transformer.", "model.", _BACKBONE)
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<side>A|B|down|up)(?:\.default)?\.weight")
_ALPHA = re.compile(r"(?P<module>.+)\.(?:lora_)?alpha")
_DOWN = ("A", "down")
_ALIGNMENT = 4096


@dataclass(frozen=True)
class LoRA:
    """What is added to one weight [out, in].

    Attributes:
        down: [rank, in].
        up: [out, rank].
        scale: alpha over rank.
    """

    down: np.ndarray
    up: np.ndarray
    scale: float

    def delta(self) -> np.ndarray:
        """float32 [out, in]."""
        return self.scale * (self.up.astype(np.float32) @ self.down.astype(np.float32))


@dataclass(frozen=True)
class Target:
    """A weight in a graph.

    Attributes:
        graph: name of the graph.
        weight: name of the initializer.
        turned: it is [in, out].
        factors: name of the initializer of its outputs' factors; None where it is not in eight bits.
    """

    graph: str
    weight: str
    turned: bool
    factors: str | None = None


def read_lora(path: Path) -> dict[str, LoRA]:
    """Reads factors by module, in the spellings of PEFT (`lora_A`, `lora_B`) and kohya (`lora_down`, `lora_up`).

    Raises:
        CheckpointError: the file is damaged, or holds a factor without the other.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})", "give a LoRA in a safetensors file") from error
    factors: dict[str, dict[str, np.ndarray]] = {}
    alphas: dict[str, float] = {}
    for name, tensor in tensors.items():
        if match := _FACTOR.fullmatch(name):
            side = "down" if match["side"] in _DOWN else "up"
            factors.setdefault(_plain(match["module"]), {})[side] = tensor
        elif match := _ALPHA.fullmatch(name):
            alphas[_plain(match["module"])] = float(np.asarray(tensor, np.float32).reshape(-1)[0])
    broken = sorted(module for module, sides in factors.items() if len(sides) < 2)
    if broken or not factors:
        what = f"{broken[0]} has one factor of two" if broken else "it holds no factors"
        raise CheckpointError(f"{path.name} is no LoRA: {what}; expected lora_A and lora_B of each module")
    made = {}
    for module, sides in factors.items():
        rank = sides["down"].shape[0]
        made[module] = LoRA(sides["down"], sides["up"], alphas.get(module, float(rank)) / rank)
    return made


def find_targets(graphs: Mapping[str, ir.Model]) -> dict[str, Target]:
    """The weights of products by the names of modules as the checkpoint has them, such as `blocks.3.ffn.fc1`.

    Args:
        graphs: of a deployment, by name.
    """
    found: dict[str, Target] = {}
    blocks: list[str] = []
    for name in ("step", "prompt"):
        for node in graphs[name].graph:
            weight = _weight(node)
            module = module_of_name(node.name or "")
            if weight is None or not module.startswith(_BACKBONE):
                continue
            module = module.removeprefix(_BACKBONE)
            module = f"{module}.mat_qkv" if module.rpartition(".")[2] == "sa" else module
            turned = not (node.op_type == "Gemm" and node.attributes.get_int("transB", 0))
            found[module] = Target(name, weight, turned, _factors(node))
            if module.endswith(".ca.mat_q") and name == "step":
                blocks.append(module.removesuffix(".ca.mat_q"))
    outputs = {value.name: value for value in graphs["prompt"].graph.outputs}
    for layer, block in enumerate(blocks):
        leads = _first_product(outputs.get(f"text_key.{layer}"))
        if leads is not None:
            found[f"{block}.ca.mat_kv"] = Target("prompt", leads, True)
    return found


def merge_lora(folder: Path, lora: Mapping[str, LoRA], strength: float = 1.0) -> dict[str, int]:
    """Adds a LoRA to the weights in a folder of graphs.

    Merged weights are written behind the others, since a weight may be shared by content.

    Args:
        folder: holds ``NAME.onnx`` and the weights; changed.
        lora: by module.
        strength: factor of it.

    Returns:
        How many weights changed, by graph.

    Raises:
        UsageError: a module is not in the graphs, or its weight has another shape; nothing is changed then.
    """
    graphs = {name: ir.load(folder / f"{name}.onnx") for name in ("step", "prompt")}
    targets = find_targets(graphs)
    unknown = [module for module in lora if module not in targets]
    if unknown:
        raise UsageError(
            f"the LoRA changes {unknown[0]}, which is no product of this model; expected modules such as "
            f"{', '.join(list(targets)[:3])}",
            "give a LoRA that was trained on this checkpoint",
        )
    changed: dict[str, list[tuple[ir.Value, np.ndarray]]] = {}
    counts: dict[str, int] = {}
    for module, one in lora.items():
        target = targets[module]
        initializers = graphs[target.graph].graph.initializers
        value = initializers[target.weight]
        tensor = value.const_value
        delta = one.delta().T if target.turned else one.delta()
        if tensor is None or tuple(tensor.shape) != delta.shape:
            shape = () if tensor is None else tuple(tensor.shape)[:: -1 if target.turned else 1]
            raise UsageError(f"the LoRA of {module} makes {one.delta().shape}; expected {shape}", "check its file")
        made = changed.setdefault(target.graph, [])
        factors = None if target.factors is None else initializers[target.factors]
        if factors is None or factors.const_value is None:
            merged = tensor.numpy().astype(np.float32) + strength * delta
            made.append((value, merged.astype(tensor.numpy().dtype)))
        else:
            before = RoundedWeight(tensor.numpy(), factors.const_value.numpy().astype(np.float32))
            rounded = round_weight(before.matrix() + strength * delta, module)
            made += [(value, rounded.values), (factors, rounded.factors)]
        counts[target.graph] = counts.get(target.graph, 0) + 1
    for name, weights in changed.items():
        for value, merged in weights:
            value.const_value = _append(folder, value, merged)
        ir.save(graphs[name], folder / f"{name}.onnx")
    return counts


def _plain(module: str) -> str:
    for prefix in _PREFIXES:
        module = module.removeprefix(prefix)
    return module


def _weight(node: ir.Node) -> str | None:
    """The name of a product's weight; None if the node is no product of one."""
    if node.op_type not in ("MatMul", "Gemm") or len(node.inputs) < 2 or node.inputs[1] is None:
        return None
    value = node.inputs[1]
    widened = value.producer()
    if widened is not None and widened.op_type == "DequantizeLinear" and widened.inputs[0] is not None:
        value = widened.inputs[0]
    return value.name if value.is_initializer() and value.const_value is not None else None


def _factors(node: ir.Node) -> str | None:
    """The name of a product's factors, which `toprovar.compiler.tensorrt.passes.float8_products` put behind it."""
    weight = node.inputs[1]
    before = None if weight is None else weight.producer()
    if before is None or before.op_type != "DequantizeLinear":
        return None
    (times,) = node.outputs[0].consumers()
    factors = times.inputs[1]
    return None if factors is None else factors.name


def _first_product(value: ir.Value | None) -> str | None:
    """The weight of the nearest product that a value comes from."""
    reached, seen = ([] if value is None else [value]), set[int]()
    while reached:
        for before in _inputs(reached.pop(0)):
            if isinstance(before, str):
                return before
            if id(before) not in seen:
                seen.add(id(before))
                reached.append(before)
    return None


def _inputs(value: ir.Value) -> Iterator[ir.Value | str]:
    node = value.producer()
    if node is None:
        return
    weight = _weight(node)
    if weight is not None:
        yield weight
        return
    yield from (one for one in node.inputs if one is not None and not one.is_initializer())


def _append(folder: Path, value: ir.Value, array: np.ndarray) -> ir.ExternalTensor:
    """Writes a tensor behind the weights that are there."""
    kind = value.dtype
    tensor = ir.tensor(array if kind is None else array.astype(kind.numpy()), dtype=kind)
    with (folder / WEIGHTS_FILE).open("r+b") as file:
        file.seek(0, 2)
        file.write(bytes(-file.tell() % _ALIGNMENT))
        offset = file.tell()
        file.write(tensor.tobytes())
    return ir.ExternalTensor(
        WEIGHTS_FILE,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape),
        name=value.name or "",
        base_dir=folder,
    )
