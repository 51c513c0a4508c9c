"""A small model with random weights, on the eager backend and on the runtime."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from toprovar.calibration.policies.dense import dense_plan
from toprovar.calibration.policy import Task
from toprovar.errors import BackendError
from toprovar.models.bsq_vae import BSQVAE, VAEConfig
from toprovar.models.geometry import restore_constants, scale_constants
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.loader import Defaults, LoadedModel, guidance_layers
from toprovar.models.observer import Observer
from toprovar.models.schedules import Schedule
from toprovar.plan import DepthRule, Ranking, SparsityPlan
from toprovar.pruning import Pruning, Unconditional
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.session import GeneratedImage, Session

__all__ = ["CHANNELS", "GRIDS", "Counts", "features", "generate_beside", "make_model", "make_plan", "make_session"]

DEPTH, HEADS, CHANNELS, WORDS = 3, 2, 12, 6
GRIDS: Schedule = ((1, 1), (2, 2), (3, 4), (4, 5), (6, 6))

Counts = Callable[[int, int], Sequence[int]]


def make_model(patchify: bool = False, width: int = 64, device: str = "cpu") -> LoadedModel:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        backbone = Infinity(InfinityConfig(DEPTH, 3, width, HEADS, 2 * width, 16, CHANNELS, WORDS, 4, 15))
        vae = BSQVAE(VAEConfig(4 if patchify else 16, (32, 32), (32, 32), 1, 1))
        for model in (backbone, vae):
            for parameter in model.parameters():
                nn.init.normal_(parameter, std=0.15)
        for block in backbone.layers:
            block.sa.scale_mul_1H11 += 2.5  # sharp enough for entropies to differ
    pair = backbone.eval().requires_grad_(False).to(device), vae.eval().requires_grad_(False).to(device)
    return LoadedModel("infinity", "small", "0" * 64, *pair, patchify, None, Defaults(3.0, 1.0), "0.06M")


def make_plan(
    loaded: LoadedModel,
    pruning: Pruning,
    kept: Counts,
    rule: DepthRule | None = None,
    insertion: Sequence[int] = (0,),
    late: Unconditional = "full",
) -> SparsityPlan:
    """A plan with given counts, and what the unconditional half does at the last two scales."""
    record = loaded.record(GRIDS, guidance_layers(insertion, DEPTH))
    mean = (((0.8,) * HEADS,) * len(pruning.observers),) * len(GRIDS) if pruning.observers else ()
    plan = dataclasses.replace(
        dense_plan(GRIDS, Task(record, 1.0, 4)),
        ranking=Ranking(pruning.selector, pruning.observers, mean, mean),
        restoration=pruning.restoration,
    )
    scales = tuple(
        dataclasses.replace(
            one, kept=tuple(kept(index, one.tokens)), unconditional=late if index >= len(GRIDS) - 2 else "full"
        )
        for index, one in enumerate(plan.scales)
    )
    return dataclasses.replace(plan, scales=scales, depth_rule=rule)


def make_session(
    loaded: LoadedModel,
    plan: SparsityPlan,
    options: RuntimeOptions | None,
    insertion: Sequence[int] = (0,),
    device: str = "cpu",
    observer: Observer | None = None,
) -> Session:
    """A session that is eager without options."""
    record = loaded.record(GRIDS, guidance_layers(insertion, DEPTH))
    config = loaded.backbone.config
    constants = scale_constants(GRIDS, config.head_dim, loaded.latent_grids(GRIDS)) | restore_constants(GRIDS)
    constants["unconditional"] = loaded.backbone.cfg_uncond.detach().float().cpu().numpy()
    table = np.asarray(plan.ranking.mean, np.float32)
    constants["entropy_mean"] = table if plan.ranking.observers else np.zeros((len(GRIDS), 0, HEADS), np.float32)
    constants["entropy_deviation"] = constants["entropy_mean"]
    backend = TorchBackend(record, GRIDS, constants, loaded, plan.pruning, observer, device, runtime=options)
    return Session(backend, plan, loaded.sampling(len(GRIDS)), None)


def features(tokens: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(tokens, CHANNELS)).astype(np.float32)


def generate_beside(
    one: Session, prompt: str | np.ndarray, beside: Callable[[], object], generator: int = 0
) -> tuple[GeneratedImage, list[str]]:
    """An image of `prompt`, and the errors of another thread that does something beside its third scale."""
    refused: list[str] = []

    def attempt() -> None:
        try:
            beside()
        except BackendError as error:
            refused.append(error.message)

    def at_once(own: Session, scale: int, *_: object) -> None:
        if scale == 2:
            thread = threading.Thread(target=attempt)
            thread.start()
            thread.join()

    return one(prompt, generator=generator, callback_on_step_end=at_once).images[0], refused
