"""What a deployment's ``kernels`` folder was compiled with and for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from toprovar.artefact import Artefact

__all__ = ["KERNELS", "Kernels"]

KERNELS = "kernels/kernels.json"
"""Where a `Kernels` lies in a deployment; beside it, a folder for each kernel, by Triton's key."""


@dataclass(frozen=True)
class Kernels(Artefact):
    """Where compiled kernels run.

    Attributes:
        gpu: name of the GPU.
        compute_capability: of the GPU, such as `9.0`.
        torch: PyTorch's version.
        triton: Triton's version.
        driver: the newest CUDA version that the driver knows, such as `13.0`.
    """

    schema_version: Literal[1] = field(default=1, kw_only=True)
    gpu: str
    compute_capability: str
    torch: str
    triton: str
    driver: str

    def differences(self, other: Kernels) -> str:
        """What is not the same in another, in words; empty where everything is."""
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__]
        return ", ".join(f"{name} {own} instead of {theirs}" for name, own, theirs in pairs if own != theirs)
