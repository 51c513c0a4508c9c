"""What runs within Triton Inference Server: a session behind its Python backend's requests and responses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from toprovar.errors import ToProVARError
from toprovar.runtime.session import Session

__all__ = ["TritonModel"]


class TritonModel:
    """Answers requests with images.

    Args:
        session: makes the images.
        batch: images that run together.
        server: Triton's module `triton_python_backend_utils`.
    """

    def __init__(self, session: Session, batch: int, server: Any) -> None:
        self._session, self._batch, self._server = session, batch, server

    @classmethod
    def open(cls, arguments: Mapping[str, str], server: Any) -> Self:
        """Opens the deployment of a model's version.

        Args:
            arguments: what Triton gives `initialize`: the model's folder, version and configuration.
            server: Triton's module `triton_python_backend_utils`.

        Raises:
            ToProVARError: the deployment is damaged, or its backend cannot run here.
        """
        parameters = json.loads(arguments["model_config"])["parameters"]
        settings = {key: value["string_value"] for key, value in parameters.items()}
        folder = Path(arguments["model_repository"]) / arguments["model_version"] / "deployment"
        return cls(Session.open(folder, settings["backend"]), int(settings["batch"]), server)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request; a request that cannot be carried out gets an error that says why."""
        return [self._answer(request) for request in requests]

    def close(self) -> None:
        """Frees the engine's memory."""
        self._session.backend.close()

    def _answer(self, request: Any) -> Any:
        server = self._server
        try:
            images, depths = self._generate(request)
        except (ToProVARError, UnicodeDecodeError) as error:
            return server.InferenceResponse(output_tensors=[], error=server.TritonError(str(error)))
        return server.InferenceResponse(output_tensors=[server.Tensor("image", images), server.Tensor("depth", depths)])

    def _generate(self, request: Any) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, height, width, 3] and the first sparse scale of each, int32 [N]."""
        negative, guidance = _texts(self._input(request, "negative_prompt")), self._input(request, "guidance")
        seeds = self._input(request, "seed")
        prompts = _texts(self._input(request, "prompt")) or []
        generation = self._session(
            prompts,
            negative[0] if negative else None,
            guidance_scale=None if guidance is None else guidance.ravel().tolist(),
            generator=0 if seeds is None else _seeds(seeds, len(prompts)),
            batch_size=self._batch,
        )
        images = np.stack([one.picture for one in generation.images])
        return images, np.array([one.depth for one in generation.images], np.int32)

    def _input(self, request: Any, name: str) -> np.ndarray | None:
        tensor = self._server.get_input_tensor_by_name(request, name)
        return None if tensor is None else tensor.as_numpy()


def _texts(array: np.ndarray | None) -> list[str] | None:
    """Triton gives strings as bytes."""
    if array is None:
        return None
    return [one.decode() if isinstance(one, bytes) else str(one) for one in array.ravel().tolist()]


def _seeds(array: np.ndarray, prompts: int) -> list[int]:
    """One seed a prompt; one alone counts for all."""
    seeds: list[int] = array.ravel().tolist()
    return seeds * prompts if len(seeds) == 1 else seeds
