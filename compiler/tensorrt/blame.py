"""Finds the module and the scale that a message of TensorRT's is about, and cuts out what is at fault."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from toprovar.compiler.tensorrt.passes.name_nodes import module_of_name
from toprovar.engines import EngineProfile

__all__ = ["Blame", "find_blame", "save_minimal"]

_PROFILE = re.compile(r"profile\s*(?:index\s*)?[#:=]?\s*(\d+)", re.IGNORECASE)
_REPRODUCED_BYTES = 64 << 20
"""Weights up to here go into the file that reproduces an error."""


@dataclass(frozen=True)
class Blame:
    """Where an error came from, as far as its message tells.

    Attributes:
        node: name of the node; empty where none is named.
        module: dotted name of its module.
        profile: name of the optimisation profile.
    """

    node: str = ""
    module: str = ""
    profile: str = ""

    def words(self) -> str:
        """For an error message: ` in MODULE (NODE) at scale 4, sparse`; empty if nothing is known."""
        where = f" in {self.module} ({self.node})" if self.node else ""
        return f"{where} at {self.profile}" if self.profile else where


def find_blame(message: str, path: Path, profiles: Sequence[EngineProfile] = ()) -> Blame:
    """Looks for names of nodes and numbers of profiles in a message.

    Args:
        message: of TensorRT.
        path: of the graph, whose nodes are named after modules (`toprovar.compiler.tensorrt.passes.name_nodes`).
        profiles: in the engine's order.
    """
    names = sorted((node.name for node in ir.load(path).graph if node.name), key=len, reverse=True)
    places = {name: message.find(name) for name in names if name in message}
    # A fused layer names its first node first; of names that begin alike the longest is meant.
    node = min(places, key=lambda name: (places[name], -len(name)), default="")
    number = _PROFILE.search(message)
    index = int(number[1]) if number else -1
    profile = profiles[index].name if 0 <= index < len(profiles) else ""
    return Blame(node, module_of_name(node), profile)


def save_minimal(path: Path, node_name: str, target: Path) -> bool:
    """Writes the smallest graph that holds a node: the node, its constants, its inputs as inputs.

    Args:
        path: of the whole graph.
        node_name: of the node.
        target: ONNX file to write.

    Returns:
        Whether it was written: not if there is no such node, or its weights are too large.
    """
    model = ir.load(path)
    node = next((one for one in model.graph if one.name == node_name), None)
    if node is None:
        return False
    values = [value for value in node.inputs if value is not None]
    constants = {value: value.const_value for value in values if value.const_value is not None}
    if sum(tensor.nbytes for tensor in constants.values()) > _REPRODUCED_BYTES:
        return False
    fresh = {value: ir.Value(name=value.name, type=value.type, shape=value.shape) for value in values}
    for value, tensor in constants.items():
        fresh[value].const_value = ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
    outputs = [ir.Value(name=value.name, type=value.type, shape=value.shape) for value in node.outputs]
    copied = ir.Node(
        node.domain,
        node.op_type,
        [None if value is None else fresh[value] for value in node.inputs],
        node.attributes.values(),
        outputs=outputs,
        name=node.name,
    )
    graph = ir.Graph(
        [value for value in dict.fromkeys(fresh.values()) if value.const_value is None],
        outputs,
        nodes=[copied],
        initializers=[value for value in fresh.values() if value.const_value is not None],
        opset_imports=model.opset_imports,
        name="minimal",
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    ir.save(ir.Model(graph, ir_version=model.ir_version, functions=list(model.functions.values())), target)
    return True
