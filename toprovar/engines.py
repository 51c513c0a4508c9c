"""What a deployment's ``engines`` folder holds: built for which GPU and versions, and for which shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from toprovar.artefact import Artefact, Index, Sha256, require_length
from toprovar.conform import refuse

__all__ = ["ENGINES", "EngineFile", "EngineProfile", "Engines", "PluginForm", "Span"]

ENGINES = "engines/engines.json"
"""Where an `Engines` lies in a deployment."""

PluginForm = Literal["ahead_of_time", "just_in_time"]
"""``ahead_of_time``: the kernel lies in the engine, which needs no Python; ``just_in_time``: TensorRT calls Python."""


@dataclass(frozen=True)
class Span(Artefact):
    """What one input of an engine may be in a profile: its shape, or the values of an input that holds sizes.

    Attributes:
        least: smallest, by axis.
        usual: what kernels are chosen for.
        most: largest.
    """

    least: tuple[Index, ...]
    usual: tuple[Index, ...]
    most: tuple[Index, ...]

    def validate(self) -> None:
        """Checks that all three are of one length and ascend."""
        for name, values in (("usual", self.usual), ("most", self.most)):
            require_length(values, len(self.least), "axis", name)
        for axis, (least, usual, most) in enumerate(zip(self.least, self.usual, self.most, strict=True)):
            if not least <= usual <= most:
                raise refuse(f"usual[{axis}]", f"an integer from {least} to {most}", usual)

    def holds(self, sizes: tuple[int, ...]) -> bool:
        """Whether sizes lie within."""
        return len(sizes) == len(self.least) and all(
            least <= size <= most for least, size, most in zip(self.least, sizes, self.most, strict=True)
        )


@dataclass(frozen=True)
class EngineProfile(Artefact):
    """One optimisation profile.

    Attributes:
        name: what it is for, such as `scale 4, sparse`.
        scale: index of the scale; None where the engine has none.
        sparse: whether it is for the scale's kept counts, or for all of its tokens.
        shapes: by input.
        values: of the inputs that hold sizes, by input.
    """

    name: str
    scale: Index | None
    sparse: bool
    shapes: Mapping[str, Span]
    values: Mapping[str, Span]

    def holds(self, shapes: Mapping[str, tuple[int, ...]], values: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether every input that is given lies within."""
        return all(self.shapes[name].holds(shape) for name, shape in shapes.items() if name in self.shapes) and all(
            self.values[name].holds(value) for name, value in values.items() if name in self.values
        )


@dataclass(frozen=True)
class EngineFile(Artefact):
    """One engine.

    Attributes:
        graph: the graph that it was built from.
        file: its path in the deployment.
        sha256: hash of the engine's file.
        graph_sha256: hash of that graph's file when it was built.
        profiles: in the engine's order.
        inputs: element type by input, as the engine says.
        outputs: likewise by output.
        layers: layers of the engine.
        device_bytes: device memory that a context needs beside weights, inputs and outputs.
        seconds: wall-clock of the build.
    """

    graph: str
    file: str
    sha256: Sha256
    graph_sha256: Sha256
    profiles: tuple[EngineProfile, ...]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    layers: Index
    device_bytes: Index
    seconds: float


@dataclass(frozen=True)
class Engines(Artefact):
    """What engines were built, with what, and for what.

    Attributes:
        precision: of products and the cache, `bfloat16` or `float32`; `float8` is `bfloat16` with the operands of the
            large products in eight bits.
        plugin: form of the FlashAttentionEntropy plugin.
        images: images at most that run together.
        tensorrt: TensorRT's version.
        cuda: CUDA's version, as torch says.
        driver: the driver's newest CUDA version.
        gpu: name of the GPU.
        compute_capability: of the GPU, such as `9.0`.
        version_compatible: engines run in later versions of TensorRT, as they say themselves.
        hardware_compatibility: which other GPUs they run on, as they say themselves.
        refittable: whether weights can be exchanged.
        weight_streaming: whether weights may stay in main memory.
        plan_sha256: hash of the plan whose counts the profiles hold.
        files: the engines.
    """

    schema_version: Literal[1] = field(default=1, kw_only=True)
    precision: Literal["bfloat16", "float32", "float8"]
    plugin: PluginForm
    images: Index
    tensorrt: str
    cuda: str
    driver: str
    gpu: str
    compute_capability: str
    version_compatible: bool
    hardware_compatibility: str
    refittable: bool
    weight_streaming: bool
    plan_sha256: Sha256
    files: tuple[EngineFile, ...]
