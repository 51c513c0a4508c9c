"""What every statistic must do, whatever its name, on every backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from toprovar.extensions import BACKENDS, STATISTICS
from toprovar.plan import DepthRule
from toprovar.reports import depth_words
from toprovar.runtime.session import Session

from ...tiny_nano import Compiled, as_nano, equal_bits, with_kept

PROMPTS = ["a red circle", "two large blue squares on a white background", "three small striped yellow triangles"]
SEEDS = [11, 5, 23]
DECIDED_AFTER = 3


def make_rule(name: str, thresholds: tuple[float, ...] = (), depths: tuple[int, ...] = (4,)) -> DepthRule:
    low_below = -0.5 if STATISTICS.load(name).needs_entropy else None
    return DepthRule(name, DECIDED_AFTER, low_below, thresholds, depths)


@pytest.fixture(scope="module", params=BACKENDS.names())
def opened(request: pytest.FixtureRequest, compiled: Compiled, weights: Path) -> Iterator[Session]:
    if request.param == "tensorrt":
        pytest.skip("the deployment has no engines; tests/runtime/tensorrt has a stand-in's")
    with as_nano(weights), Session.open(compiled.folder, request.param) as session:
        yield session


def ruled(session: Session, rule: DepthRule) -> Session:
    plan = with_kept(session.plan, lambda s, t: (max(t // 2, 1),) * 2 if s else (t, t), rule)
    return Session(session.backend, plan, session.sampling, session.tokenize)


@pytest.mark.parametrize("name", STATISTICS.names())
def test_it_decides_for_each_image_alone(name: str, opened: Session) -> None:
    plain = ruled(opened, make_rule(name))
    values = [image.statistic for image in plain(PROMPTS, generator=SEEDS).images]
    assert all(0 <= value <= STATISTICS.load(name).largest for value in values)
    assert len(set(values)) > 1
    # a threshold in the widest gap parts the batch
    ordered = sorted(values)
    gap = int(np.argmax(np.diff(ordered)))
    middle = (ordered[gap] + ordered[gap + 1]) / 2
    session = ruled(opened, make_rule(name, (middle,), (4, 6)))
    alone = session(PROMPTS, generator=SEEDS).images
    together = session(PROMPTS, generator=SEEDS, batch_size=3).images
    assert {image.depth for image in alone} == {4, 6}
    for one, other, value in zip(alone, together, values, strict=True):
        assert one.statistic == pytest.approx(value, rel=1e-4)
        assert other.statistic == pytest.approx(value, rel=1e-4)
        assert one.depth == other.depth == (4 if value < middle else 6)
        assert equal_bits(one, other) == 1


@pytest.mark.parametrize("name", STATISTICS.names())
def test_a_dense_run_measures_nothing(name: str, opened: Session) -> None:
    (image,) = ruled(opened, make_rule(name))(PROMPTS[0], dense=True).images
    assert image.statistic is None


@pytest.mark.parametrize("name", STATISTICS.names())
def test_it_is_told_in_words(name: str) -> None:
    first, *depths = depth_words(make_rule(name, (0.25,), (4, 10)), scales=10)
    assert first.startswith("depth: decided after scale 3 by r, the ")
    assert depths == ["  r < 0.25: sparse from scale 4", "  0.25 <= r: every scale runs dense"]


def test_calibration_sees_what_is_decided_by(opened: Session) -> None:
    seen = opened.observe(PROMPTS[1], SEEDS[1])
    assert [len(scale.entropy) for scale in seen] == [scale.tokens for scale in opened.plan.scales]
    assert all(scale.high_frequency > 0 for scale in seen)
    expected = {
        "high_frequency": seen[DECIDED_AFTER].high_frequency,
        "low_entropy_ratio": float((seen[DECIDED_AFTER].entropy < -0.5).mean()),
    }
    for name, value in expected.items():
        (image,) = ruled(opened, make_rule(name))(PROMPTS[1], generator=SEEDS[1]).images
        assert image.statistic == pytest.approx(value, rel=1e-4)
