"""One laboratory for all studies: the tiny nano, drawn by eager PyTorch, and a suite that judges small images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from toprovar.evaluation.suites import shapes
from toprovar.pipeline.subject import Subject
from toprovar.progress import Stages
from toprovar.studies.laboratory import Laboratory

from ..tiny_nano import _one_thread, as_nano, weights

__all__ = ["_one_thread", "laboratory", "weights"]

SIDE = 256


def _enlarged(images: list[np.ndarray]) -> list[np.ndarray]:
    return [np.kron(one, np.ones((SIDE // one.shape[0], SIDE // one.shape[1], 1), np.uint8)) for one in images]


@pytest.fixture(scope="session")
def laboratory(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    folder = tmp_path_factory.mktemp("laboratory")
    true = shapes.SUITE.score
    texts = [prompt.text for prompt in shapes.CALIBRATION_PROMPTS[:2]]
    with as_nano(weights, folder / "cache"), pytest.MonkeyPatch.context() as patch, Stages() as stages:
        patch.setattr(
            type(shapes.SUITE), "score", staticmethod(lambda prompts, images: true(prompts, _enlarged(images)))
        )
        subject = Subject.open("nano", resolution="0.06M")
        yield Laboratory(subject, folder / "work", stages, prompts=texts, backend="torch")
