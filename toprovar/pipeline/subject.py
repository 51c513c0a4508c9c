"""A model at one image size, with the parts that calibration, compiler and runtime need of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import torch

from toprovar.calibration.policies.dense import dense_plan
from toprovar.calibration.policy import Task
from toprovar.errors import UsageError
from toprovar.manifest import ModelRecord, Precision
from toprovar.models.geometry import restore_constants, scale_constants
from toprovar.models.loader import LoadedModel, guidance_layers, load_model
from toprovar.models.observer import Observer
from toprovar.models.schedules import Schedule
from toprovar.models.text import TextEncoder
from toprovar.plan import Ranking, SparsityPlan
from toprovar.pruning import Pruning, Restoration
from toprovar.runtime.backends.base import Backend, EngineOptions
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.cuda.support import choose_runtime
from toprovar.runtime.session import Session

__all__ = ["Subject"]


@dataclass(frozen=True)
class Subject:
    """What is calibrated and compiled.

    Attributes:
        loaded: the model.
        text: its text encoder.
        record: its facts.
        grids: token grids, coarse to fine.
        device: where the model itself runs: the first NVIDIA GPU, or the CPU.
    """

    loaded: LoadedModel
    text: TextEncoder
    record: ModelRecord
    grids: Schedule
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @classmethod
    def open(
        cls,
        model: str,
        vae: Path | None = None,
        text_encoder: Path | None = None,
        aspect_ratio: str = "1:1",
        resolution: str | None = None,
        cfg_insertion_layers: Sequence[int] = (0,),
    ) -> Self:
        """Loads a model; arguments as of `toprovar.pipeline.compile.compile_model`.

        Raises:
            ToProVARError: it cannot be loaded, or brings no text encoder.
        """
        loaded = load_model(model, vae, text_encoder)
        if loaded.text is None:
            raise UsageError(
                "calibration reads prompts, and this checkpoint brings no text encoder",
                "give the folder of flan-t5-xl with --text-encoder",
            )
        grids = loaded.schedule(aspect_ratio, resolution)
        layers = guidance_layers(cfg_insertion_layers, loaded.backbone.config.depth)
        return cls(loaded, loaded.text, loaded.record(grids, layers), grids)

    def task(self, target_flops: float, prompts: Sequence[str]) -> Task:
        """What a policy is asked for, with costs for prompts of the mean length of these."""
        lengths = [len(self.text.token_ids(text)) for text in prompts]
        return Task(self.record, target_flops, round(sum(lengths) / max(len(lengths), 1)))

    def dense_plan(self) -> SparsityPlan:
        """The plan that leaves nothing out."""
        return dense_plan(self.grids, Task(self.record, 1.0, 1))

    def constants(self, ranking: Ranking, restoration: Restoration = "identity") -> dict[str, np.ndarray]:
        """The tables that a backend needs beside graphs or weights (`toprovar.runtime.backends.base.Backend`)."""
        pruning = Pruning(ranking.selector, ranking.observers, restoration)
        config = self.loaded.backbone.config
        constants = scale_constants(self.grids, config.head_dim, self.loaded.latent_grids(self.grids))
        constants["unconditional"] = self.loaded.backbone.cfg_uncond.detach().float().cpu().numpy()
        empty = np.zeros((len(self.grids), 0, config.heads), np.float32)
        constants["entropy_mean"] = np.asarray(ranking.mean, np.float32) if ranking.observers else empty
        constants["entropy_deviation"] = np.asarray(ranking.deviation, np.float32) if ranking.observers else empty
        return constants | (restore_constants(self.grids) if pruning.caches_updates else {})

    def torch_backend(
        self,
        ranking: Ranking,
        restoration: Restoration = "identity",
        reuses_guidance: bool = False,
        observer: Observer | None = None,
        device: torch.device | None = None,
        runtime: RuntimeOptions | None = None,
    ) -> TorchBackend:
        """The model itself, for plans with this ranking and restoration; on the subject's device unless told.

        Raises:
            BackendError: a runtime was asked for, and the model does not fit the GPU.
        """
        pruning = Pruning(ranking.selector, ranking.observers, restoration, reuses_guidance)
        constants = self.constants(ranking, restoration)
        return TorchBackend(
            self.record,
            self.grids,
            constants,
            self.loaded,
            pruning,
            observer,
            self.device if device is None else device,
            runtime=runtime,
        )

    def runtime(self, precision: Precision | None = None) -> RuntimeOptions | None:
        """How the runtime is to work on the subject's device; None where the model's own modules must do."""
        return choose_runtime(self.loaded.backbone, self.loaded.vae, self.device, EngineOptions(precision), None)

    def session(self, backend: Backend, plan: SparsityPlan | None = None) -> Session:
        """A session with the model's own defaults of sampling; dense without a plan."""
        sampling = self.loaded.sampling(len(self.grids))
        return Session(backend, plan or self.dense_plan(), sampling, self.text.token_ids)
