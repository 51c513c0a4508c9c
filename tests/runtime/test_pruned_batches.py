"""Whatever a plan carries from scale to scale, an image does not depend on the images beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from toprovar.deployment import Deployment
from toprovar.extensions import RESTORATIONS
from toprovar.models.geometry import restore_constants
from toprovar.models.loader import load_model
from toprovar.plan import DepthRule, Ranking
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session

from ..tiny_nano import REFERENCE, Compiled, as_nano, equal_bits, with_kept

PROMPTS = ["a red circle", "two large blue squares on a white background", "three small striped yellow triangles"]
SEEDS = [11, 5, 23]


def make_session(compiled: Compiled, weights: Path, restoration: str, late: str) -> Session:
    """From scale 4 or 6 on three fifths of the tokens, and no unconditional half at the last scale."""
    deployment = Deployment.open(compiled.folder)
    with as_nano(weights), Session.open(compiled.folder, "torch", options=REFERENCE) as opened:
        loaded, tokenize, constants = load_model("nano"), opened.tokenize, dict(opened.backend.constants)
    grids = [(scale.height, scale.width) for scale in deployment.plan.scales]
    constants |= restore_constants(grids)
    constants |= {name: np.zeros((len(grids), 0, 2), np.float32) for name in ("entropy_mean", "entropy_deviation")}
    rule = DepthRule("high_frequency", 3, None, (), (4,))
    plan = with_kept(
        dataclasses.replace(deployment.plan, ranking=Ranking("chunk_change"), restoration=restoration, depth_rule=None),
        lambda s, t: (max(3 * t // 5, 1),) * 2 if s else (t, t),
        rule,
    )
    scales = (*plan.scales[:-1], dataclasses.replace(plan.scales[-1], unconditional=late))
    plan = dataclasses.replace(plan, scales=scales)
    backend = TorchBackend(deployment.manifest.model, grids, constants, loaded, plan.pruning)
    return Session(backend, plan, opened.sampling, tokenize)


@pytest.mark.parametrize("late", ["full", "reused"])
@pytest.mark.parametrize("restoration", RESTORATIONS.names())
def test_images_that_part_company(restoration: str, late: str, compiled: Compiled, weights: Path) -> None:
    session = make_session(compiled, weights, restoration, late)
    low, high, _ = sorted(image.statistic for image in session(PROMPTS, generator=SEEDS).images)
    middle = (low + high) / 2
    assert session.plan.depth_rule is not None
    rule = dataclasses.replace(session.plan.depth_rule, thresholds=(middle,), depths=(4, 6))
    session.plan = dataclasses.replace(session.plan, depth_rule=rule)
    alone = session(PROMPTS, generator=SEEDS).images
    together = session(PROMPTS, generator=SEEDS, batch_size=3).images
    assert sorted(image.depth for image in alone) == [4, 6, 6]
    for one, other in zip(alone, together, strict=True):
        assert one.depth == other.depth
        assert equal_bits(one, other) == 1
    dense = session(PROMPTS, generator=SEEDS, dense=True).images
    assert all(equal_bits(one, other) < 1 for one, other in zip(alone, dense, strict=True))
