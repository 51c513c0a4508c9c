"""How engines are built; told apart from building them, which needs TensorRT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from toprovar.engines import PluginForm

__all__ = ["BuildOptions", "HardwareCompatibility"]

HardwareCompatibility = Literal["none", "same_compute_capability", "ampere_plus"]


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built.

    Attributes:
        plugin: form of the plugin.
        version_compatible: let later versions of TensorRT run the engines.
        hardware_compatibility: which other GPUs are to run them.
        refittable: let weights be exchanged.
        optimization_level: 0 to 5, how long to search; None for TensorRT's default.
        workspace: bytes that layers may use; None for all there is.
    """

    plugin: PluginForm = "ahead_of_time"
    version_compatible: bool = False
    hardware_compatibility: HardwareCompatibility = "none"
    refittable: bool = False
    optimization_level: int | None = None
    workspace: int | None = None
