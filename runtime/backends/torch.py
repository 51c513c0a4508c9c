"""Eager PyTorch: the reference that the other engines are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from toprovar import signature
from toprovar.constants import load_constants
from toprovar.deployment import Deployment
from toprovar.errors import BackendError, CheckpointError
from toprovar.manifest import ModelRecord
from toprovar.models.loader import LoadedModel, load_model
from toprovar.models.observer import Observer
from toprovar.models.step import Decode, Prompt, ScaleStep
from toprovar.pruning import Pruning
from toprovar.runtime.backends.base import Backend, Controls, State, StepResult
from toprovar.runtime.backends.onnxruntime import OnnxRuntimeBackend

__all__ = ["BACKEND", "Tap", "TorchBackend"]

Encode = Callable[[np.ndarray], np.ndarray]
"""Text encoder: int64 [1, T] to float32 [1, T, channels]."""

Tap = Callable[[str, int | None, dict[str, np.ndarray]], None]
"""Sees every call of a graph: (name, scale, inputs)."""


_TEXT_GRAPH = "graphs/text.onnx"


class TorchBackend(Backend):
    """Runs the model's own modules.

    Args:
        loaded: the model.
        pruning: what the plan fixes of the adaptive step.
        observer: watches every layer of the dense step, all of which then measure entropy.
        device: where to run.
        encode: text encoder to use where the model brings none.

    Attributes:
        tap: told of every call; for verification.
    """

    name = "torch"

    def __init__(
        self,
        model: ModelRecord,
        grids: Sequence[tuple[int, int]],
        constants: Mapping[str, np.ndarray],
        loaded: LoadedModel,
        pruning: Pruning = Pruning(),  # noqa: B008  frozen
        observer: Observer | None = None,
        device: str | torch.device = "cpu",
        encode: Encode | None = None,
    ) -> None:
        super().__init__(model, grids, constants, pruning)
        self.tap: Tap | None = None
        self._device = torch.device(device)
        self._text = loaded.text
        self._encode = encode
        backbone = loaded.backbone.to(self._device)
        common = (backbone, loaded.patchify, model.guidance_layers)
        watched = tuple(range(model.layers)) if observer else ()
        self._prompt = Prompt(backbone)
        self._dense = ScaleStep(*common, dataclasses.replace(pruning, observers=watched), observer=observer)
        self._adaptive = ScaleStep(*common, pruning, adaptive=True)
        self._decode = Decode(loaded.vae.to(self._device))

    @classmethod
    def open(cls, deployment: Deployment, source: str | None = None) -> TorchBackend:
        """Loads the checkpoint that a deployment was compiled from.

        Args:
            deployment: gives plan and tables.
            source: the checkpoint; the manifest's own if left out.

        Raises:
            BackendError: the checkpoint, or the VAE beside it, is not to be found or not the one that was compiled.
        """
        model = deployment.manifest.model
        try:
            loaded = load_model(source or model.source)
        except CheckpointError as error:
            raise BackendError(
                f"the torch backend loads the checkpoint itself, but {error.message}",
                "put the checkpoint where it was compiled from, with its VAE in the same folder, or use --backend "
                "onnxruntime, which needs neither",
            ) from error
        if loaded.sha256 != model.sha256:
            raise BackendError(
                f"{loaded.source}, with its VAE, is not what this deployment was compiled from",
                "give the original files, or compile these",
            )
        grids = [(scale.height, scale.width) for scale in deployment.plan.scales]
        constants = load_constants(deployment.folder / "graphs")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        encode: Encode | None = None
        if loaded.text is None and _TEXT_GRAPH in deployment.manifest.files:
            encode = OnnxRuntimeBackend.open(deployment).encode_text_impl
        return cls(model, grids, constants, loaded, deployment.plan.pruning, device=device, encode=encode)

    @staticmethod
    def check_available() -> str:
        """One line about the engine found here."""
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
        return f"PyTorch {torch.__version__} on {where}"

    @torch.inference_mode()
    def encode_text_impl(self, token_ids: np.ndarray) -> np.ndarray:
        """Runs ``text``."""
        if self._text is None and self._encode is not None:
            return self._encode(token_ids)
        if self._text is None:
            raise BackendError("this model has no text encoder", "give features instead of prompts")
        (features,) = self._call("text", None, self._text.module.to(self._device), {"token_ids": token_ids})
        return _to_host(features)

    @torch.inference_mode()
    def prepare_impl(self, features: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Runs ``prompt``."""
        names = signature.prompt(self.model.layers).outputs
        return dict(
            zip(names, self._call("prompt", None, self._prompt, {"features": features, "mask": mask}), strict=True)
        )

    @torch.inference_mode()
    def step_impl(self, state: State, controls: Controls) -> StepResult:
        """Runs ``dense`` or ``adaptive``."""
        graph, module = ("dense", self._dense) if controls.kept is None else ("adaptive", self._adaptive)
        given = {**state.tensors, **self.step_inputs(state, controls)}
        outputs = self._call(graph, state.scale, module, {name: given[name] for name in module.signature.inputs})
        return self.collect(state, controls, dict(zip(module.signature.outputs, outputs, strict=True)))

    @torch.inference_mode()
    def probe(self, state: State, controls: Controls) -> tuple[StepResult, np.ndarray]:
        """Runs the state's scale through the adaptive graph as `step` does, and shows the logits.

        Returns:
            What `step` returns, and the logit of 1 less that of 0 of every bit, float32 [B, L, bits], before noise.
        """
        state = self.checked(state, controls)
        given = {**state.tensors, **self.step_inputs(state, controls)}
        module = self._adaptive
        tensors = {name: self._to_tensor(given[name]) for name in module.signature.inputs}
        outputs, logits = module.compute(tensors)
        named = dict(zip(module.signature.outputs, outputs, strict=True))
        return self.collect(state, controls, named), _to_host(logits[..., 1] - logits[..., 0])

    @torch.inference_mode()
    def decode_impl(self, summed: Any) -> np.ndarray:
        """Runs ``decode``."""
        return _to_host(self._call("decode", None, self._decode, {"summed": summed})[0])

    def _call(self, graph: str, scale: int | None, module: nn.Module, feed: Mapping[str, Any]) -> tuple[Tensor, ...]:
        tensors = {name: self._to_tensor(value) for name, value in feed.items()}
        if self.tap:
            self.tap(graph, scale, {name: _to_host(tensor) for name, tensor in tensors.items()})
        outputs = module(*tensors.values())
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def from_host_impl(self, array: np.ndarray) -> Any:
        """Copies to the device."""
        return self._to_device(array)

    def to_host_impl(self, tensor: Any) -> np.ndarray:
        """Copies from the device."""
        return _to_host(tensor)

    def take_impl(self, tensor: Any, rows: list[int]) -> Any:
        """Copies rows."""
        return tensor[torch.tensor(rows, device=tensor.device)]

    def _to_tensor(self, value: Any) -> Tensor:
        return value if isinstance(value, Tensor) else self._to_device(value)

    def _to_device(self, value: np.ndarray) -> Tensor:
        # ascontiguousarray would give a scalar an axis
        return torch.from_numpy(np.asarray(value, order="C")).to(self._device)


def _to_host(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


BACKEND = TorchBackend
