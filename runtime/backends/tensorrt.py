"""TensorRT engines on an NVIDIA GPU: whatever a generation needs stays on the device, at fixed addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from toprovar import signature
from toprovar.constants import load_constants
from toprovar.deployment import Deployment
from toprovar.engines import EngineFile
from toprovar.errors import BackendError
from toprovar.manifest import ModelRecord
from toprovar.pruning import Pruning
from toprovar.runtime.backends.base import Backend, Controls, EngineOptions, State, StepResult
from toprovar.runtime.backends.onnxruntime import OnnxRuntimeBackend
from toprovar.runtime.tensorrt.engine import DTYPES, Engine
from toprovar.runtime.tensorrt.graphs import load_engines
from toprovar.runtime.tensorrt.installed import open_library
from toprovar.runtime.tensorrt.preflight import REBUILD, check_engines, read_engines
from toprovar.runtime.tensorrt.slot import Cached, Lease, Slot, SlotPool

__all__ = ["BACKEND", "TensorRTBackend"]

Encode = Callable[[np.ndarray], np.ndarray]

_GENERATION = "generation"
_TEXT_GRAPH = "graphs/text.onnx"
_STEP = "step"
_CONSTANT = ("text_", "modulation", "head_modulation")
"""How what the prompt's graph gives every scale is named."""
_TEXT_MULTIPLE = 32
"""Texts are filled up with masked tokens to a multiple, so that there are few shapes."""
_TO_NEXT = {"next_x": "x", "next_summed": "summed"} | {
    f"next_{name}": name for name in ("guidance_difference", "carried_logits")
}


class TensorRTBackend(Backend):
    """Runs the engines of a deployment.

    Args:
        engines: by graph: ``prompt``, ``step``, ``decode``, and ``text`` where the model has an encoder.
        device: of the engines.
        encode: text encoder to use where there is no engine of one.
    """

    name = "tensorrt"
    takes: ClassVar[frozenset[str]] = frozenset({"low_vram"})

    def __init__(
        self,
        model: ModelRecord,
        grids: Sequence[tuple[int, int]],
        constants: Mapping[str, np.ndarray],
        engines: Mapping[str, Engine],
        pruning: Pruning = Pruning(),  # noqa: B008  frozen
        device: str = "cuda",
        encode: Encode | None = None,
    ) -> None:
        super().__init__(model, grids, constants, pruning)
        missing = {"prompt", _STEP, "decode"} - engines.keys()
        if missing:
            raise BackendError(f"no engine for {', '.join(sorted(missing))}", REBUILD)
        self._engines, self._device, self._encode = dict(engines), torch.device(device), encode
        step = engines[_STEP].record
        self._names = signature.cache_names(model.layers, "past")
        cached = DTYPES[step.outputs["new_key.0"]]
        token = model.heads, model.head_dim
        self._slots = SlotPool(_capacity(step, model.layers), token, cached, self._device)
        self._tables: dict[int, tuple[np.ndarray, Tensor]] = {}
        self._known = {id(array) for array in constants.values()}
        self._fixed: dict[tuple[object, ...], Tensor] = {}

    @classmethod
    def open(
        cls,
        deployment: Deployment,
        source: str | None = None,
        options: EngineOptions = EngineOptions(),  # noqa: B008  frozen
    ) -> TensorRTBackend:
        """Loads a deployment's engines; `source` is ignored, since they hold the weights.

        Raises:
            BackendError: there are none, or they were built for something else than what is here.
            MissingExtra: TensorRT is not installed.
        """
        del source
        engines = read_engines(deployment)
        check_engines(engines, deployment, open_library().this_machine())
        loaded = load_engines(deployment.folder, engines, options.low_vram)
        grids = [(scale.height, scale.width) for scale in deployment.plan.scales]
        constants = load_constants(deployment.folder / "graphs")
        encode: Encode | None = None
        if "text" not in loaded and _TEXT_GRAPH in deployment.manifest.files:
            encode = OnnxRuntimeBackend.open(deployment).encode_text_impl
        return cls(deployment.manifest.model, grids, constants, loaded, deployment.plan.pruning, encode=encode)

    @staticmethod
    def check_available() -> str:
        """One line about the engine found here."""
        return open_library().check_available()

    def close(self) -> None:
        """Frees engines and buffers."""
        self._engines.clear()
        self._slots.clear()
        self._tables.clear()
        self._fixed.clear()

    def encode_text_impl(self, token_ids: np.ndarray) -> np.ndarray:
        """Runs ``text``."""
        if "text" not in self._engines:
            if self._encode is not None:
                return self._encode(token_ids)
            raise BackendError("this deployment has no text encoder", "give features in place of a prompt")
        return self._run_alone("text", {"token_ids": token_ids})["features"].float().cpu().numpy()

    def prepare_impl(self, features: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Runs ``prompt``."""
        most = self._engines["prompt"].record.profiles[0].shapes["features"].most[1]
        tokens = features.shape[1]
        more = max(min(-(-tokens // _TEXT_MULTIPLE) * _TEXT_MULTIPLE, most) - tokens, 0)
        filled = {"features": np.pad(features, ((0, 0), (0, more), (0, 0))), "mask": np.pad(mask, ((0, 0), (0, more)))}
        outputs = self._run_alone("prompt", filled)
        return {name: tensor.clone() for name, tensor in outputs.items()}

    def step_impl(self, state: State, controls: Controls) -> StepResult:
        """Runs ``step``, dense as all tokens kept."""
        lease = self._lease(state)
        slot, scale, record = lease.slot, state.scale, self._engines[_STEP].record
        pasts = self._pasts(state)
        given = {**state.tensors, **self.step_inputs(state, controls)}
        given |= {name: slot.past(name.removeprefix("past_"), count) for name, count in pasts.items()}
        tokens = controls.noise.shape[1]
        kept = controls.kept or (tokens,) * self.model.layers
        given = _completed(given, record, state, self.constants)
        tensors = {
            name: self._placed(slot, name, scale, given[name], DTYPES[kind])
            for name, kind in record.inputs.items()
            if name != "kept"
        }

        def place(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            if name.startswith("new_") and not name.startswith("new_update"):
                own = name.removeprefix("new_")
                behind = slot.behind(own, pasts[f"past_{own}"], shape[0])
                return behind if slot.in_place else slot.buffer(name, scale, shape, dtype)
            if name in _TO_NEXT:
                return slot.buffer(_TO_NEXT[name], scale + 1, shape, dtype)
            return slot.buffer(name, scale, shape, dtype)

        def into_cache(outputs: Mapping[str, Tensor]) -> None:
            if not slot.in_place:
                for name in self._names:
                    own = name.removeprefix("past_")
                    new = outputs[f"new_{own}"]
                    slot.behind(own, pasts[name], len(new)).copy_(new)

        outputs: dict[str, Any] = dict(self._engines[_STEP].run(scale, tensors, {"kept": kept}, place, into_cache))
        for name in self._names:
            own = name.removeprefix("past_")
            outputs[f"present_{own}"] = Cached(slot.past(own, pasts[name] + len(outputs[f"new_{own}"])))
        if controls.kept is None:
            for name in ("entropy", "next_prior", "next_carried_logits"):
                outputs.pop(name, None)
        result = self.collect(state, controls, outputs)
        # What all scales read lies in the slot from now on.
        resident = {name: tensors[name] for name in tensors if name.startswith(_CONSTANT)}
        following = {**result.state.tensors, **resident, _GENERATION: lease.after(scale)}
        return StepResult(replace(result.state, tensors=following), result.bits.astype(np.uint8), result.entropy)

    def decode_impl(self, summed: Any) -> np.ndarray:
        """Runs ``decode``."""
        return self._run_alone("decode", {"summed": summed})["image"].float().cpu().numpy()

    def from_host_impl(self, array: np.ndarray) -> Any:
        """Copies an array to the device."""
        return torch.from_numpy(np.array(array, order="C")).to(self._device)

    def to_host_impl(self, tensor: Any) -> np.ndarray:
        """Copies a tensor from the device."""
        return tensor.cpu().numpy()

    def take_impl(self, tensor: Any, rows: list[int]) -> Any:
        """Copies rows; the hold on the slot goes, since other rows need another one."""
        if isinstance(tensor, Lease):
            tensor.check()
            return None
        if isinstance(tensor, Cached):
            return tensor.take(rows)
        return tensor[torch.tensor(rows, device=tensor.device)]

    def _lease(self, state: State) -> Lease:
        lease = state.tensors.get(_GENERATION)
        if lease is None:
            past = {
                name.removeprefix("past_"): value.tensor
                for name in self._names
                if isinstance(value := state.tensors[name], Cached)
            }
            lease = self._slots.lease(state.rows, past, state.scale)
        lease.check()
        return lease

    def _pasts(self, state: State) -> dict[str, int]:
        """Cached tokens by input."""
        values = {name: state.tensors[name] for name in self._names}
        return {name: len(value.tensor) if isinstance(value, Cached) else 0 for name, value in values.items()}

    def _placed(self, slot: Slot, name: str, scale: int, value: Any, dtype: torch.dtype) -> Tensor:
        """An input at an address that is the same next time."""
        if isinstance(value, np.ndarray):
            if id(value) in self._known:
                return self._table(value, dtype)
            return slot.buffer(f"{name}<", scale, value.shape, dtype).copy_(_tensor(value))
        if name.startswith("past_"):
            return value
        when = None if name.startswith(_CONSTANT) else scale
        return slot.keep(name, when, value, dtype)

    def _table(self, array: np.ndarray, dtype: torch.dtype) -> Tensor:
        """A constant on the device, copied once."""
        if id(array) not in self._tables:
            self._tables[id(array)] = array, _tensor(array).to(self._device, dtype)
        return self._tables[id(array)][1]

    def _run_alone(self, graph: str, given: Mapping[str, Any]) -> dict[str, Tensor]:
        """Runs an engine that no scale is of; its outputs hold until it runs again."""
        engine = self._engines[graph]
        shapes = tuple(tuple(value.shape) for value in given.values())

        def fixed(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            key = (graph, name, shapes, shape)
            if key not in self._fixed:
                self._fixed[key] = torch.zeros(shape, dtype=dtype, device=self._device)
            return self._fixed[key]

        tensors = {
            name: fixed(name, tuple(value.shape), DTYPES[engine.record.inputs[name]]).copy_(_tensor(value))
            for name, value in given.items()
            if name in engine.record.inputs
        }
        return engine.run(None, tensors, {}, fixed)


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value, order="C"))


def _capacity(step: EngineFile, layers: int) -> list[int]:
    """Tokens that a layer's cache holds at most: what a profile reads, and what it adds."""
    capacity = [1] * layers
    for profile in step.profiles:
        tokens = profile.shapes["x"].most[1]
        kept = profile.values["kept"].most if "kept" in profile.values else (tokens,) * layers
        for layer in range(layers):
            past = profile.shapes[f"past_key.{layer}"].most[0]
            capacity[layer] = max(capacity[layer], past + kept[layer])
    return capacity


def _completed(
    given: dict[str, Any], record: EngineFile, state: State, constants: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Adds what a dense scale has no use for, but the one graph of all scales takes."""
    missing = [name for name in record.inputs if name not in given and name != "kept"]
    tokens = given["noise"].shape[1]
    made: dict[str, Any] = {}
    for name in missing:
        match name:
            case "order":
                made[name] = np.tile(np.arange(tokens), (state.images, 1))
            case "prior":
                made[name] = np.zeros((state.images, tokens), np.float32)
            case "entropy_mean" | "entropy_deviation":
                made[name] = constants[name][state.scale]
            case "restore_rows" | "restore_columns":
                made[name] = constants[f"{name}.{state.updated_scale}.{state.scale}"]
            case "carried_logits":
                made[name] = np.zeros((*given["noise"].shape, 2), np.float32)
            case _:
                raise BackendError(f"the step's engine wants {name}, which nobody gives", REBUILD)
    return given | made


BACKEND = TensorRTBackend
