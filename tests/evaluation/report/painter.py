"""A made-up deployment whose backend paints: no model, no torch, milliseconds an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from toprovar.deployment import Deployment
from toprovar.deployment_writer import DeploymentWriter
from toprovar.manifest import Manifest
from toprovar.plan import SparsityPlan
from toprovar.runtime.backends.base import Backend, Controls, State, StepResult
from toprovar.runtime.session import Session
from toprovar.stats import CalibrationStats

PROMPTS = ('a "red" circle & <script>alert(1)</script>', "two синих squares, $x^$ each", "un cercle été")


class Painter(Backend):
    """Priors and entropy are drawn from the scale's number; the picture is what was kept."""

    name = "onnxruntime"

    def encode_text_impl(self, token_ids: np.ndarray) -> np.ndarray:
        return np.zeros((1, token_ids.shape[1], 4), np.float32)

    def prepare_impl(self, features: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        return {}

    def step_impl(self, state: State, controls: Controls) -> StepResult:
        height, width = self.grids[min(state.scale + 1, len(self.grids) - 1)]
        rng = np.random.default_rng(state.scale)
        following = replace(
            state,
            tensors={"summed": state.tensors["summed"] + sum(controls.kept or (0,))},
            scale=state.scale + 1,
            prior=rng.normal(size=(1, height * width)).astype(np.float32),
        )
        tokens = controls.noise.shape[1]
        entropy = np.abs(rng.normal(size=(1, tokens))).astype(np.float32) if controls.kept is not None else None
        return StepResult(following, (controls.noise > 0).astype(np.uint8), entropy)

    def decode_impl(self, summed: Any) -> np.ndarray:
        model = self.model
        ramp = np.linspace(-1, 1, model.image_height * model.image_width, dtype=np.float32)
        ramp = ramp.reshape(1, 1, model.image_height, model.image_width)
        return np.repeat(np.clip(ramp + summed.mean() / 100, -1, 1), 3, axis=1)

    def from_host_impl(self, array: np.ndarray) -> Any:
        return array

    def to_host_impl(self, tensor: Any) -> np.ndarray:
        return np.asarray(tensor)

    def take_impl(self, tensor: Any, rows: list[int]) -> Any:
        return tensor[rows]


def open_painter(folder: Path) -> Session:
    """A session on a painted deployment."""
    deployment = Deployment.open(folder)
    plan, model = deployment.plan, deployment.manifest.model
    grids = [(scale.height, scale.width) for scale in plan.scales]
    constants: dict[str, np.ndarray] = {"unconditional": np.zeros((8, 4), np.float32)}
    for scale, (height, width) in enumerate(grids):
        constants |= {f"carry_rows.{scale}": np.zeros((1, height)), f"carry_columns.{scale}": np.zeros((1, width))}
        constants |= {f"next_rows.{scale}": np.ones((2, model.latent_height), np.float32)}
        constants |= {f"next_columns.{scale}": np.ones((2, model.latent_width), np.float32)}
    backend = Painter(model, grids, constants, plan.pruning)
    return Session(backend, plan, deployment.manifest.sampling, lambda prompt: [1, 2])


Write = Callable[..., Path]


def write_deployment(
    target: Path,
    plan: SparsityPlan,
    manifest: Manifest,
    stats: CalibrationStats | None = None,
    prompts: tuple[str, ...] = PROMPTS,
) -> Path:
    """A deployment folder without graphs."""
    with DeploymentWriter(target) as writer:
        plan.save(writer.folder / "plan.json")
        (writer.folder / "text").mkdir()
        (writer.folder / "text" / "examples.txt").write_text("\n".join(prompts), encoding="utf-8")
        (writer.folder / "report").mkdir()
        if stats is not None:
            stats.save(writer.folder / "report" / "calibration.json")
        writer.manifest = manifest
    return target
