"""A pool of captioned scenes on the training device."""

from __future__ import annotations

import multiprocessing
import signal
from dataclasses import dataclass, replace
from multiprocessing.pool import AsyncResult, Pool

import numpy as np
import torch
from torch import Tensor

from toprovar.evaluation.suites.shapes import HELD_OUT
from toprovar.models.nano import attributes
from toprovar.models.nano.renderer import PackedScenes, coverage, pack, render
from toprovar.models.nano.scenes import sample_captioned_scene
from toprovar.models.nano.vocabulary import encode

__all__ = ["PendingScenes", "ScenePool", "start_workers"]

_CHUNK = 1024
_TEXTURED = 2.5
"""How much more a textured object counts than a plain one."""


def start_workers(count: int) -> Pool:
    """Starts processes for work on the CPU; an interruption is left to the process that started them."""
    return multiprocessing.get_context("spawn").Pool(count, signal.signal, (signal.SIGINT, signal.SIG_IGN))


def _sample_chunk(seed: int, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    captioned = [sample_captioned_scene(rng, HELD_OUT) for _ in range(size)]
    packed = pack([one.scene for one in captioned])
    fields = {name: getattr(packed, name).numpy() for name in packed.__dataclass_fields__}
    return fields, np.array([encode(one.text) for one in captioned], dtype=np.int64)


@dataclass(frozen=True)
class PendingScenes:
    """Scenes that the workers are still drawing."""

    result: AsyncResult[list[tuple[dict[str, np.ndarray], np.ndarray]]]

    @classmethod
    def start(cls, size: int, seed: int, workers: Pool) -> PendingScenes:
        """Begins to draw `size` scenes; the same seed gives the same scenes.

        The prompts of the evaluation are left out.
        """
        chunks = [(seed * 1_000_003 + start // _CHUNK, min(_CHUNK, size - start)) for start in range(0, size, _CHUNK)]
        return cls(workers.starmap_async(_sample_chunk, chunks, chunksize=1))

    def collect(self, device: torch.device) -> ScenePool:
        """Waits for the scenes."""
        parts = self.result.get(timeout=600)
        fields = {name: torch.from_numpy(np.concatenate([part[0][name] for part in parts])) for name in parts[0][0]}
        tokens = torch.from_numpy(np.concatenate([part[1] for part in parts]))
        return ScenePool(PackedScenes(**fields).to(device), tokens.to(device))


@dataclass(frozen=True)
class ScenePool:
    """Scenes and captions, drawn once and rendered whenever they are needed.

    Attributes:
        scenes: N scenes.
        tokens: word indices int64 [N, MAX_WORDS], 0 at padding.
    """

    scenes: PackedScenes
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Indices of a batch, drawn with replacement."""
        return torch.randint(len(self), (size,), generator=generator, device=self.tokens.device)

    def images(self, index: Tensor) -> Tensor:
        """Renders scenes: float32 [B, 3, 256, 256] in [-1, 1]."""
        return render(self._pick(index), index.device)

    def without_objects(self, share: float) -> ScenePool:
        """The same scenes, but of every 1 / share of them only the background; captions are as they were."""
        shape = self.scenes.shape.clone()
        shape[:: round(1 / share)] = -1
        return ScenePool(replace(self.scenes, shape=shape), self.tokens)

    def pixel_importance(self, index: Tensor) -> Tensor:
        """What a pixel counts in a loss: 1 in the background, 6 in an object, 20 in a textured one.

        Objects cover a tenth of a scene and their textures less: unweighted, a tokenizer reaches 38 dB
        without drawing a single dot.

        Returns:
            float32 [B, 1, 256, 256], mean 1 over the batch.
        """
        scenes = self._pick(index)
        textured = _is_textured(scenes)
        weight = 1 + (coverage(scenes, index.device) * (5 + 14 * textured)[:, :, None, None]).sum(1, keepdim=True)
        return weight / weight.mean()

    def token_importance(self, index: Tensor, size: int, strength: float) -> Tensor:
        """What a token of a square grid counts: more the more of it lies in an object's bounding box.

        Args:
            index: scenes, [B].
            size: edge of the grid.
            strength: what a token inside a plain object's box counts beyond the background's 1; a textured
                object's counts `_TEXTURED` times as much beyond it.

        Returns:
            float32 [B, size * size], mean 1 over the batch.
        """
        scenes = self._pick(index)
        edges = torch.linspace(0, attributes.CANVAS, size + 1, device=index.device)
        centre, radius = scenes.geometry[..., :2, None], scenes.geometry[..., 2:, None]
        low = torch.maximum(centre - radius, edges[:-1])
        high = torch.minimum(centre + radius, edges[1:])
        across, down = ((high - low).clamp(min=0) * (size / attributes.CANVAS)).unbind(2)  # [B, objects, size]
        counts = (scenes.shape >= 0) * (1 + (_TEXTURED - 1) * _is_textured(scenes))
        weight = 1 + strength * torch.einsum("bo,boy,box->byx", counts, down, across)
        return (weight / weight.mean()).flatten(1)

    def _pick(self, index: Tensor) -> PackedScenes:
        return PackedScenes(**{name: getattr(self.scenes, name)[index] for name in self.scenes.__dataclass_fields__})


def _is_textured(scenes: PackedScenes) -> Tensor:
    return (scenes.texture != attributes.TEXTURES.index("solid")).float()
