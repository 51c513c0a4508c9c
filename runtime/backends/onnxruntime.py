"""ONNX Runtime on a CPU: the embedded default; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from toprovar import signature
from toprovar.constants import load_constants
from toprovar.deployment import Deployment
from toprovar.errors import BackendError
from toprovar.machine import usable_cores
from toprovar.manifest import ModelRecord
from toprovar.pruning import Pruning
from toprovar.runtime.backends.base import Backend, Controls, EngineOptions, State, StepResult

__all__ = ["BACKEND", "OnnxRuntimeBackend"]

_DENSE = "graphs/dense.onnx"


class OnnxRuntimeBackend(Backend):
    """Runs the graphs of a deployment folder.

    Args:
        folder: the deployment's ``graphs`` folder.
        pruning: what its graphs were made for.
        threads: threads of an operator; None for every logical core that this process may use.
    """

    name = "onnxruntime"

    def __init__(
        self,
        model: ModelRecord,
        grids: Sequence[tuple[int, int]],
        constants: Mapping[str, np.ndarray],
        folder: Path,
        pruning: Pruning = Pruning(),  # noqa: B008  frozen
        threads: int | None = None,
    ) -> None:
        super().__init__(model, grids, constants, pruning)
        self._folder = folder
        # ONNX Runtime's own default is a thread for each physical core, half of what most clouds rent out.
        self._threads = threads or usable_cores()
        self._sessions: dict[str, ort.InferenceSession] = {}

    @classmethod
    def open(
        cls,
        deployment: Deployment,
        source: str | None = None,
        options: EngineOptions = EngineOptions(),  # noqa: B008  frozen
    ) -> OnnxRuntimeBackend:
        """Loads a deployment; `source` is ignored, since the graphs hold the weights.

        Raises:
            BackendError: the deployment holds no graphs.
        """
        del source, options
        if _DENSE not in deployment.manifest.files:
            raise BackendError(
                f"this deployment holds no ONNX graphs: it was compiled for {deployment.manifest.backend}",
                "compile the model for onnxruntime, or leave out --backend",
            )
        grids = [(scale.height, scale.width) for scale in deployment.plan.scales]
        graphs = deployment.folder / "graphs"
        return cls(deployment.manifest.model, grids, load_constants(graphs), graphs, deployment.plan.pruning)

    @staticmethod
    def check_available() -> str:
        """One line about the engine found here."""
        return f"ONNX Runtime {ort.__version__} on the CPU"

    def close(self) -> None:
        """Drops all sessions."""
        self._sessions.clear()

    def _session(self, graph: str) -> ort.InferenceSession:
        """Graphs are loaded on first use: a dense generation never loads the adaptive one."""
        if graph not in self._sessions:
            options = ort.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = self._threads
            # Each session has threads of its own: those of the graph that ran last would spin on the cores that the
            # next one needs, which cost a third of a generation's time.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            path = self._folder / f"{graph}.onnx"
            try:
                self._sessions[graph] = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            except Exception as error:  # ONNX Runtime's errors share no base class of their own
                reason = str(error).splitlines()[0]
                raise BackendError(f"{path.name} cannot be loaded ({reason})", "compile the model again") from error
        return self._sessions[graph]

    def _run(self, graph: str, feeds: Mapping[str, Any], unwanted: Sequence[str] = ()) -> dict[str, ort.OrtValue]:
        session = self._session(graph)
        values = {
            name: value if isinstance(value, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(value)
            for name, value in feeds.items()
        }
        names = [output.name for output in session.get_outputs() if output.name not in unwanted]
        options = ort.RunOptions()
        options.only_execute_path_to_fetches = bool(unwanted)
        return dict(zip(names, session.run_with_ort_values(names, values, options), strict=True))

    def encode_text_impl(self, token_ids: np.ndarray) -> np.ndarray:
        """Runs ``text``."""
        return self._run("text", {"token_ids": token_ids})["features"].numpy()

    def prepare_impl(self, features: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Runs ``prompt``."""
        return dict(self._run("prompt", {"features": features, "mask": mask}))

    def step_impl(self, state: State, controls: Controls) -> StepResult:
        """Runs ``dense`` or ``adaptive``."""
        graph = "dense" if controls.kept is None else "adaptive"
        names = signature.step(self.model.layers, controls.kept is not None, self.pruning).inputs
        given = {**state.tensors, **self.step_inputs(state, controls)}
        unwanted = [] if self.updates(state, controls) else signature.update_names(self.model.layers, "new_update")
        unwanted += [] if controls.ranks else ["entropy", "next_prior"]
        outputs = self._run(graph, {name: given[name] for name in names}, unwanted)
        return self.collect(state, controls, outputs)

    def decode_impl(self, summed: Any) -> np.ndarray:
        """Runs ``decode``."""
        return self._run("decode", {"summed": summed})["image"].numpy()

    def from_host_impl(self, array: np.ndarray) -> Any:
        """Wraps the array, which is not copied."""
        return ort.OrtValue.ortvalue_from_numpy(array)

    def to_host_impl(self, tensor: Any) -> np.ndarray:
        """Unwraps the array."""
        return tensor.numpy()

    def take_impl(self, tensor: Any, rows: list[int]) -> Any:
        """Copies rows."""
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy()[rows]))


BACKEND = OnnxRuntimeBackend
