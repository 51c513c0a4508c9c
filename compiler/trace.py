"""Traces a model's modules with symbolic sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from toprovar.manifest import ModelRecord
from toprovar.models.step import ScaleStep
from toprovar.signature import Signature, fixed_axes

__all__ = ["TracedGraph", "trace_graph"]

_SCALARS = {"scale": 1, "guidance": 2.0, "temperature": 0.5, "certain": 3.0}


@dataclass(frozen=True)
class TracedGraph:
    """A module as torch.export sees it.

    Attributes:
        name: of the graph's file.
        program: the traced module.
        signature: names of its inputs and outputs, in order.
    """

    name: str
    program: ExportedProgram
    signature: Signature


def trace_graph(
    name: str, module: nn.Module, contract: Signature, record: ModelRecord, observers: int, text_channels: int
) -> TracedGraph:
    """Traces one of `toprovar.compiler.modules.build_modules`.

    Args:
        name: of the graph.
        module: what to trace.
        contract: its inputs and outputs.
        record: facts of the model; fixed sizes come from here.
        observers: number of layers that the adaptive graph observes.
        text_channels: channels of the text features.
    """
    return TracedGraph(name, _trace(module, contract, _sizes(record, observers, text_channels)), contract)


def _trace(module: nn.Module, contract: Signature, sizes: dict[str, int]) -> ExportedProgram:
    examples = tuple(_example(name, axes, sizes) for name, axes in contract.inputs.items())
    shapes = [_dynamic(axes) for axes in contract.inputs.values()]
    dynamic = {"tensors": tuple(shapes)} if isinstance(module, ScaleStep) else tuple(shapes)
    with torch.no_grad():
        return torch.export.export(module.eval(), examples, dynamic_shapes=dynamic, strict=False)


def _sizes(record: ModelRecord, observers: int, text_channels: int) -> dict[str, int]:
    """An example size of every axis; all differ from one another and from 0 and 1 where they may vary.

    Sizes that vary are even, so that pixel unshuffling divides them.
    """
    factor = 2 if record.patchify else 1
    fixed = fixed_axes(record, observers, text_channels)
    height, width, next_height, next_width, update_height, update_width = 4, 6, 8, 10, 2, 14
    moving = {
        "B": 2,
        "R": 4,
        "L": height * width,
        "T": 5,
        "P": 21,
        "h": record.latent_height,
        "w": record.latent_width,
        "height": height,
        "width": width,
        "next_height": next_height,
        "next_width": next_width,
        "update_height": update_height,
        "update_width": update_width,
        "U": update_height * update_width,
        "code_height": height * factor,
        "code_width": width * factor,
        "next_code_height": next_height * factor,
        "next_code_width": next_width * factor,
    }
    return fixed | moving


_FIXED = ("C", "H", "D", "D/2", "d", "z", "layers", "observers", "channels")


def _size(axis: str, sizes: dict[str, int]) -> int:
    return int(axis) if axis.isdigit() else sizes["P" if axis.startswith("P") else axis]


def _dynamic(axes: tuple[str, ...]) -> dict[int, object]:
    return {index: Dim.DYNAMIC for index, axis in enumerate(axes) if not axis.isdigit() and axis not in _FIXED}


def _example(name: str, axes: tuple[str, ...], sizes: dict[str, int]) -> Tensor:
    shape = [_size(axis, sizes) for axis in axes]
    images, rows, tokens = sizes["B"], sizes["R"], sizes["L"]
    match name:
        case "order":
            return torch.arange(tokens).expand(images, -1).contiguous()
        case "kept":
            return torch.arange(shape[0]) % 3 + tokens - 3
        case "conditional_rows":
            return torch.arange(images)
        case "unconditional_rows":
            return torch.arange(images) + rows - images
        case "image_of_row":
            return torch.arange(rows) % images
        case "token_ids":
            return torch.ones(shape, dtype=torch.int64)
        case "mask":
            return torch.ones(shape)
        case _ if name in _SCALARS:
            return torch.tensor(_SCALARS[name])
        case _:
            return torch.randn(shape, generator=torch.Generator().manual_seed(0))
