"""What TensorRT makes of a graph before it builds: types, shapes in every profile, layers, plugins."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polygraphy.backend.trt import Profile

from toprovar.compiler.tensorrt.network import (
    Messages,
    NetworkFromGraph,
    layer_counts,
    quantized_products,
    type_name,
)
from toprovar.compiler.tensorrt.profiles import output_shapes
from toprovar.engines import EngineProfile, PluginForm
from toprovar.signature import Signature

__all__ = ["ParsedGraph", "inspect_network", "parse_graph", "to_polygraphy"]

_PLUGIN = "PLUGIN_V3"


@dataclass(frozen=True)
class ParsedGraph:
    """How a graph was parsed.

    Attributes:
        graph: its name.
        seconds: wall-clock of parsing.
        shape_seconds: wall-clock of inferring the outputs' shapes in every profile.
        layers: number of layers by kind.
        plugins: layers that are plugins.
        quantized: products whose operands are in eight bits.
        inputs: element type by input.
        outputs: element type by output.
        shape_inputs: inputs that hold sizes.
        profiles: how many profiles TensorRT accepted.
        problems: what is not as expected; empty if all is.
        warnings: what TensorRT warned of.
    """

    graph: str
    seconds: float
    shape_seconds: float
    layers: Mapping[str, int]
    plugins: int
    quantized: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    shape_inputs: tuple[str, ...]
    profiles: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def to_polygraphy(profile: EngineProfile, names: Sequence[str]) -> Profile:
    """A profile for Polygraphy's `CreateConfig`.

    Args:
        profile: spans of shapes and values.
        names: of the network's inputs; the parser drops inputs that nothing reads.
    """
    made = Profile()
    for name in names:
        span = profile.values.get(name) or profile.shapes[name]
        made.add(name, span.least, span.usual, span.most)
    return made


def parse_graph(
    path: Path,
    contract: Signature,
    profiles: Sequence[EngineProfile],
    plugins: int,
    plugin: PluginForm = "ahead_of_time",
    types: Mapping[str, str] | None = None,
    quantized: int = 0,
) -> ParsedGraph:
    """Parses a graph and compares what came of it with its contract.

    Args:
        path: of the ONNX file.
        contract: names and axes of its inputs and outputs.
        profiles: shapes that will come.
        plugins: nodes that must become plugins.
        plugin: form of the plugin.
        types: element type by input and output; None compares no types.
        quantized: products whose operands must be in eight bits.

    Raises:
        ParsingFailed: the parser refuses the graph.
    """
    messages = Messages()
    started = time.perf_counter()
    builder, network, parser = NetworkFromGraph(path, plugin, messages)()
    seconds = time.perf_counter() - started
    del parser
    return inspect_network(
        path.stem, builder, network, contract, profiles, plugins, seconds, messages, types or {}, quantized
    )


def inspect_network(
    graph: str,
    builder: Any,
    network: Any,
    contract: Signature,
    profiles: Sequence[EngineProfile],
    plugins: int,
    seconds: float,
    messages: Messages,
    types: Mapping[str, str],
    quantized: int = 0,
) -> ParsedGraph:
    """Compares a network with its contract; other arguments as of `parse_graph`."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    layers = layer_counts(network)
    problems = []
    if layers.get(_PLUGIN, 0) != plugins:
        problems.append(f"{layers.get(_PLUGIN, 0)} plugins; expected {plugins}")
    rounded = quantized_products(network)
    if rounded != quantized:
        problems.append(f"{rounded} products in eight bits; expected {quantized}")
    if [output.name for output in outputs] != list(contract.outputs):
        problems.append(f"outputs {[output.name for output in outputs]}; expected {list(contract.outputs)}")
    accepted = 0
    config = builder.create_builder_config()
    names = [tensor.name for tensor in inputs]
    for profile in profiles:
        index = config.add_optimization_profile(to_polygraphy(profile, names).to_trt(builder, network))
        accepted += index >= 0
        problems += [] if index >= 0 else [f"{profile.name}: refused ({'; '.join(messages.errors[-1:])})"]
    shape_inputs = tuple(tensor.name for tensor in inputs if tensor.is_shape_tensor)
    kinds = {tensor.name: type_name(tensor.dtype) for tensor in (*inputs, *outputs)}
    problems += [
        f"{name} is {kind}; expected {types[name]}" for name, kind in kinds.items() if kind != types.get(name, kind)
    ]
    started = time.perf_counter()
    for profile in profiles:
        problems += _shape_problems(inputs, outputs, contract, profile)
    problems += dict.fromkeys(f"TensorRT: {message}" for message in messages.errors)
    return ParsedGraph(
        graph,
        seconds,
        time.perf_counter() - started,
        layers,
        layers.get(_PLUGIN, 0),
        rounded,
        {tensor.name: kinds[tensor.name] for tensor in inputs},
        {tensor.name: kinds[tensor.name] for tensor in outputs},
        shape_inputs,
        accepted,
        tuple(problems),
        tuple(messages.warnings),
    )


def _shape_problems(
    inputs: Sequence[Any], outputs: Sequence[Any], contract: Signature, profile: EngineProfile
) -> list[str]:
    """Gives the network the shapes of a profile and reads those of its outputs."""
    problems = []
    for which in ("least", "usual", "most"):
        for tensor in inputs:
            wanted = () if tensor.name in profile.values else getattr(profile.shapes[tensor.name], which)
            # Shapes are inferred anew after each that is set, which takes seconds in a large graph.
            if tensor.name not in profile.values and tuple(tensor.shape) != wanted:
                tensor.shape = wanted
        shapes = {tensor.name: tuple(tensor.shape) for tensor in outputs}
        for name, expected in output_shapes(contract, profile, which).items():
            found = shapes.get(name)
            # Where a size hangs on an input's value it is not known before that value is given.
            same = found is not None and all(
                wanted is None or size in (wanted, -1) for size, wanted in zip(found, expected, strict=True)
            )
            if not same:
                problems.append(f"{profile.name}, {which}: {name} is {found}; expected {expected}")
    return problems
