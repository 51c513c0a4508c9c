"""The engines of a deployment: loaded, and run one graph at a time on arrays of the host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from toprovar.engines import Engines
from toprovar.runtime.cuda.graphs import Recorder
from toprovar.runtime.tensorrt.engine import DTYPES, Engine
from toprovar.runtime.tensorrt.installed import open_library

__all__ = ["EngineGraphs", "load_engines"]

_SIZES = ("kept",)
"""Inputs that hold sizes."""


def load_engines(folder: Path, engines: Engines, low_vram: bool, captured: bool = True) -> dict[str, Engine]:
    """Every engine by its graph's name, on the current GPU.

    Args:
        folder: of the deployment.
        engines: its record, which was compared with this machine (`toprovar.runtime.tensorrt.preflight`).
        low_vram: stream as many of the weights as can be.
        captured: replay what recurs as CUDA graphs.

    Raises:
        BackendError: TensorRT refuses an engine.
    """
    library, device = open_library(), torch.device("cuda")
    raw = {}
    for one in engines.files:
        raw[one.graph] = library.load_engine(folder / one.file, engines.version_compatible)
        library.stream_weights(raw[one.graph], low_vram)
    # What is streamed passes through a context's memory, so that only the engine itself knows how much it takes.
    most = max(engine.device_memory_size_v2 for engine in raw.values())
    scratch = torch.empty(max(most, 1), dtype=torch.uint8, device=device)
    strategy, recorder = library.user_managed(), Recorder(device) if captured else None
    return {one.graph: Engine(raw[one.graph], one, strategy, scratch, recorder) for one in engines.files}


class EngineGraphs:
    """Runs engines on arrays of the host, as verification does; nothing of a call is kept.

    Args:
        engines: by graph.
        device: of the engines.
    """

    def __init__(self, engines: Mapping[str, Engine], device: str = "cuda") -> None:
        self._engines, self._device = engines, torch.device(device)

    def __call__(self, graph: str, scale: int | None, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a graph; outputs by name, reduced precision as float32."""
        engine = self._engines[graph]
        kinds = engine.record.inputs
        tensors = {name: self._given(feed[name], DTYPES[kind]) for name, kind in kinds.items() if name not in _SIZES}
        values = {name: tuple(int(size) for size in feed[name]) for name in _SIZES if name in kinds}
        outputs = engine.run(scale, tensors, values, lambda name, shape, dtype: self._room(shape, dtype))
        given = {name: _host(value) for name, value in outputs.items()}
        engine.forget()
        return given

    def _given(self, array: np.ndarray, dtype: torch.dtype) -> Tensor:
        tensor = self._room(array.shape, dtype)
        return tensor.copy_(torch.from_numpy(np.array(array, order="C")))

    def _room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory that has an address even where nothing is stored."""
        count = torch.Size(shape).numel()
        return torch.zeros(max(count, 1), dtype=dtype, device=self._device)[:count].view(shape)


def _host(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
