"""PyTorch: the model's own modules, eagerly, or the runtime of `toprovar.runtime.cuda` on an NVIDIA GPU.

Eager modules in fp32 are the reference that everything else is compared with.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from toprovar import signature
from toprovar.constants import load_constants
from toprovar.deployment import Deployment
from toprovar.errors import BackendError, CheckpointError
from toprovar.manifest import Manifest, ModelRecord
from toprovar.models.loader import LoadedModel, load_model
from toprovar.models.observer import Observer
from toprovar.models.step import Decode, Prompt, ScaleStep
from toprovar.pruning import Pruning
from toprovar.runtime.backends.base import Backend, Controls, EngineOptions, State, StepResult
from toprovar.runtime.clock import Moment
from toprovar.runtime.cuda.faults import naming_faults
from toprovar.runtime.cuda.generation import Handle
from toprovar.runtime.cuda.moment import DeviceMoment
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.cuda.runtime import GENERATION, TEXTS, Runtime
from toprovar.runtime.cuda.support import choose_runtime

__all__ = ["BACKEND", "Tap", "TorchBackend"]

Encode = Callable[[np.ndarray], np.ndarray]
"""Text encoder: int64 [1, T] to float32 [1, T, channels]."""

Tap = Callable[[str, int | None, dict[str, np.ndarray]], None]
"""Sees every call of a graph: (name, scale, inputs)."""


_TEXT_GRAPH = "graphs/text.onnx"


@dataclasses.dataclass(frozen=True)
class _Modules:
    prompt: Prompt
    dense: ScaleStep
    adaptive: ScaleStep
    decode: Decode


class TorchBackend(Backend):
    """Runs the model's own modules, or the runtime.

    Args:
        loaded: the model.
        pruning: what the plan fixes of the adaptive step.
        observer: watches every layer of the dense step, all of which then measure entropy.
        device: where to run.
        encode: text encoder to use where the model brings none.
        runtime: how the runtime is to work; None runs the model's own modules.

    Attributes:
        tap: told of every call; for verification.
    """

    name = "torch"
    takes: ClassVar[frozenset[str]] = frozenset({"precision", "low_vram", "reference"})

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
        runtime: RuntimeOptions | None = None,
    ) -> None:
        super().__init__(model, grids, constants, pruning)
        self.tap: Tap | None = None
        self._device = torch.device(device)
        self._text = loaded.text
        self._encode = encode
        self._loaded, self._observer = loaded, observer
        self._options = runtime
        self._runtime: Runtime | None = None
        if runtime is not None:
            encoder = 0 if loaded.text is None else _bytes(loaded.text.module)
            parts = loaded.backbone, loaded.vae, model, grids, constants, pruning, runtime, self._device
            self._runtime = Runtime(*parts, encoder, observer)

    @property
    def loaded(self) -> LoadedModel:
        """The model."""
        return self._loaded

    @functools.cached_property
    def _modules(self) -> _Modules:
        """The model's own modules, which the runtime does without."""
        loaded, pruning = self._loaded, self.pruning
        backbone = loaded.backbone.to(self._device)
        common = (backbone, loaded.patchify, self.model.guidance_layers)
        watched = tuple(range(self.model.layers)) if self._observer else ()
        return _Modules(
            Prompt(backbone),
            ScaleStep(*common, dataclasses.replace(pruning, observers=watched), observer=self._observer),
            ScaleStep(*common, pruning, adaptive=True),
            Decode(loaded.vae.to(self._device)),
        )

    @classmethod
    def open(
        cls,
        deployment: Deployment,
        source: str | None = None,
        options: EngineOptions = EngineOptions(),  # noqa: B008  frozen
    ) -> TorchBackend:
        """Loads the checkpoint that a deployment was compiled from.

        Args:
            deployment: gives plan and tables.
            source: the checkpoint; the manifest's own if left out.
            options: how to work; on an NVIDIA GPU the runtime runs unless the model's own modules are asked for.

        Raises:
            BackendError: the checkpoint, or the VAE beside it, is not to be found or not the one that was compiled; the
                deployment was compiled for this backend on another GPU; or the model does not fit the GPU.
        """
        model = deployment.manifest.model
        if not options.reference:
            _check_gpu(deployment.manifest)
        try:
            loaded = load_model(source or model.source, text_encoder=_text_encoder(deployment))
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
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        encode: Encode | None = None
        if loaded.text is None and _TEXT_GRAPH in deployment.manifest.files:
            from toprovar.runtime.backends.onnxruntime import OnnxRuntimeBackend

            encode = OnnxRuntimeBackend.open(deployment).encode_text_impl
        runtime = choose_runtime(loaded.backbone, loaded.vae, device, options, deployment.manifest.precision)
        if runtime is not None:
            from toprovar.runtime.cuda.kernel_store import offer_kernels

            offer_kernels(deployment)
        return cls(
            model, grids, constants, loaded, deployment.plan.pruning, device=device, encode=encode, runtime=runtime
        )

    @staticmethod
    def check_available() -> str:
        """One line about the engine found here."""
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
        return f"PyTorch {torch.__version__} on {where}"

    def describe(self) -> str:
        """The runtime and its precision, or the model's own modules, and the device."""
        where = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "the CPU"
        what = "own modules in fp32" if self._options is None else f"CUDA runtime in {self._options.precision}"
        return f"{self.name} ({what} on {where})"

    def moment(self) -> Moment:
        """On the device's clock: neither the runtime nor torch waits for a GPU."""
        return DeviceMoment() if self._device.type == "cuda" else super().moment()

    @torch.inference_mode()
    @naming_faults()
    def encode_text_impl(self, token_ids: np.ndarray) -> np.ndarray:
        """Runs ``text``."""
        if self._text is None and self._encode is not None:
            return self._encode(token_ids)
        if self._text is None:
            raise BackendError("this model has no text encoder", "give features instead of prompts")
        module = self._text.module
        try:
            (features,) = self._call("text", None, module.to(self._device), {"token_ids": token_ids})
            return _to_host(features)
        finally:
            if self._options is not None and self._options.low_vram:
                module.to("cpu")

    def prepare_rows(self, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        """As they are for the runtime, which prepares them at the first scale."""
        if self._runtime is not None and self.tap is None:
            return {TEXTS: tuple(rows)}
        return super().prepare_rows(rows)

    @torch.inference_mode()
    @naming_faults()
    def prepare_impl(self, features: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Runs ``prompt``."""
        names = signature.prompt(self.model.layers).outputs
        outputs = self._call("prompt", None, self._modules.prompt, {"features": features, "mask": mask})
        return dict(zip(names, outputs, strict=True))

    @torch.inference_mode()
    @naming_faults()
    def step_impl(self, state: State, controls: Controls) -> StepResult:
        """Runs ``dense`` or ``adaptive``."""
        if self._runtime is not None and _is_runtimes(state):
            return self._runtime.step(state, controls)
        adaptive = controls.kept is not None
        graph, module = ("adaptive", self._modules.adaptive) if adaptive else ("dense", self._modules.dense)
        given = {**state.tensors, **self.step_inputs(state, controls)}
        outputs = self._call(graph, state.scale, module, {name: given[name] for name in module.signature.inputs})
        return self.collect(state, controls, dict(zip(module.signature.outputs, outputs, strict=True)))

    @torch.inference_mode()
    @naming_faults()
    def probe(self, state: State, controls: Controls) -> tuple[StepResult, np.ndarray]:
        """Runs the state's scale through the adaptive graph as `step` does, and shows the logits.

        Returns:
            What `step` returns, and the logit of 1 less that of 0 of every bit, float32 [B, L, bits], before noise.

        Raises:
            BackendError: the generation runs on the GPU's runtime, and that was not asked to show logits.
        """
        state = self.checked(state, controls)
        if self._runtime is not None and _is_runtimes(state):
            result, logits = self._runtime.probe(state, controls)
            return result, _to_host(logits[..., 1] - logits[..., 0])
        given = {**state.tensors, **self.step_inputs(state, controls)}
        module = self._modules.adaptive
        tensors = {name: self._to_tensor(given[name]) for name in module.signature.inputs}
        outputs, logits = module.compute(tensors)
        named = dict(zip(module.signature.outputs, outputs, strict=True))
        return self.collect(state, controls, named), _to_host(logits[..., 1] - logits[..., 0])

    @torch.inference_mode()
    @naming_faults()
    def decode_impl(self, summed: Any) -> np.ndarray:
        """Runs ``decode``."""
        if self._runtime is not None and self.tap is None:
            return self._runtime.decode(summed)[0].read()
        return _to_host(self._call("decode", None, self._modules.decode, {"summed": summed})[0])

    @torch.inference_mode()
    @naming_faults()
    def decode_pictures(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """Runs ``decode``; the runtime rounds to bytes before the way to the host."""
        if self._runtime is None or self.tap is not None:
            return super().decode_pictures(state)
        pixels, pictures = self._runtime.decode(state.tensors["summed"])
        return pixels.read(), pictures.read()

    def close(self) -> None:
        """Frees the runtime's memory."""
        if self._runtime is not None:
            self._runtime.close()

    def _call(self, graph: str, scale: int | None, module: nn.Module, feed: Mapping[str, Any]) -> tuple[Tensor, ...]:
        tensors = {name: self._to_tensor(value) for name, value in feed.items()}
        if self.tap:
            self.tap(graph, scale, {name: _to_host(tensor) for name, tensor in tensors.items()})
        outputs = module(*tensors.values())
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def from_host_impl(self, array: np.ndarray) -> Any:
        """Copies to the device."""
        return self._to_device(array)

    @naming_faults()
    def zeros_impl(self, shape: tuple[int, ...]) -> Any:
        """Made on the device, where a copy from the host would be waited for."""
        return torch.zeros(shape, device=self._device)

    def to_host_impl(self, tensor: Any) -> np.ndarray:
        """Copies from the device."""
        return _to_host(tensor)

    @torch.inference_mode()
    @naming_faults()
    def take_impl(self, tensor: Any, rows: list[int]) -> Any:
        """Copies rows."""
        if isinstance(tensor, tuple):
            return tuple(tensor[row] for row in rows)
        if self._runtime is not None and isinstance(tensor, Handle):
            return self._runtime.take(tensor, rows)
        return tensor[torch.tensor(rows, device=tensor.device)]

    def _to_tensor(self, value: Any) -> Tensor:
        return value if isinstance(value, Tensor) else self._to_device(value)

    def _to_device(self, value: np.ndarray) -> Tensor:
        # ascontiguousarray would give a scalar an axis
        return torch.from_numpy(np.asarray(value, order="C")).to(self._device)


def _check_gpu(manifest: Manifest) -> None:
    """Refuses what was measured and rounded for another GPU; what was compiled for no GPU runs on any."""
    if manifest.gpu is None or manifest.backend != TorchBackend.name:
        return
    found = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    if found != manifest.gpu:
        raise BackendError(
            f"this deployment was compiled for {manifest.gpu}; this machine has {found}",
            "compile the model again on this machine, or for onnxruntime, which runs anywhere",
        )


def _is_runtimes(state: State) -> bool:
    """Whether a state was begun on the runtime."""
    return GENERATION in state.tensors or TEXTS in state.tensors


def _text_encoder(deployment: Deployment) -> Path | None:
    """Folder of a text encoder that the model does not bring, where no graph has it; None where nobody needs it."""
    source = deployment.manifest.text.source
    return None if source is None or _TEXT_GRAPH in deployment.manifest.files else Path(source)


def _bytes(module: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in module.parameters())


def _to_host(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()


BACKEND = TorchBackend
