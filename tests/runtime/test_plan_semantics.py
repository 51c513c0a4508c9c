"""What a plan's numbers mean when it runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toprovar.errors import ArtefactError
from toprovar.plan import DepthRule, SparsityPlan
from toprovar.runtime.backends.base import Controls, State, StepResult
from toprovar.runtime.session import GeneratedImage, Session

from ..tiny_nano import LAYERS, REFERENCE, Compiled, as_nano, equal_bits, psnr, with_kept

PROMPT = "a small red circle"
LAST = 6


@pytest.fixture(scope="module")
def session(compiled: Compiled) -> Iterator[Session]:
    with Session.open(compiled.folder) as session:
        yield session


@pytest.fixture(scope="module")
def reference(compiled: Compiled, weights: Path) -> Iterator[Session]:
    with as_nano(weights), Session.open(compiled.folder, "torch", options=REFERENCE) as session:
        yield session


def run(session: Session, plan: SparsityPlan, **options: bool) -> GeneratedImage:
    return Session(session.backend, plan, session.sampling, session.tokenize)(PROMPT, generator=9, **options).images[0]


def edited(folder: Path, change: Callable[[dict[str, Any]], None], target: Path) -> Path:
    """A copy whose plan was changed by hand, and whose manifest was told so."""
    shutil.copytree(folder, target)
    path = target / "plan.json"
    plan = json.loads(path.read_text())
    change(plan)
    path.write_text(json.dumps(plan))
    with pytest.raises(ArtefactError, match="changed since it was compiled"):
        Session.open(target)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"]["plan.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def test_smaller_counts_edited_by_hand_change_the_image(compiled: Compiled, tmp_path: Path) -> None:
    def change(plan: dict[str, Any]) -> None:
        for scale in plan["scales"][4:]:
            scale["kept"] = [8, 8]

    folder = edited(compiled.folder, change, tmp_path / "edited")
    with Session.open(compiled.folder) as before, Session.open(folder) as after:
        one, other = (session(PROMPT, generator=9).images[0] for session in (before, after))
    assert one.depth == other.depth
    same = [np.array_equal(a, b) for a, b in zip(one.bits, other.bits, strict=True)]
    assert all(same[: one.depth])
    assert not same[-1]
    assert not np.array_equal(one.pixels, other.pixels)


def test_moments_edited_by_hand_are_refused(compiled: Compiled, tmp_path: Path) -> None:
    folder = edited(
        compiled.folder, lambda plan: plan["ranking"]["deviation"][3][0].__setitem__(0, 0.7), tmp_path / "edited"
    )
    with pytest.raises(ArtefactError, match=r"plan\.json: ranking\.deviation: differs from the deployment's tables"):
        Session.open(folder)


def test_a_schedule_edited_by_hand_is_refused(compiled: Compiled, session: Session) -> None:
    grids = [*session.backend.grids[:-1], (20, 14)]
    with pytest.raises(ArtefactError, match=r"scales\[6\]: the plan has 20 x 14 tokens, the deployment's tables 16"):
        type(session.backend)(session.backend.model, grids, session.backend.constants, compiled.folder / "graphs")


class _Watched:
    """A backend that notes how many keys each layer holds after each scale."""

    def __init__(self, session: Session) -> None:
        self._backend = session.backend
        self.keys: list[list[int]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._backend, name)

    def step(self, state: State, controls: Controls) -> StepResult:
        result = self._backend.step(state, controls)
        names = [f"past_key.{layer}" for layer in range(LAYERS)]
        self.keys.append([list(result.state.tensors[name].shape())[2] for name in names])
        return result


Counts = Callable[[int, int], Sequence[int]]
KEPT: dict[str, Counts] = {
    "the second layer at the last scale": lambda s, t: (t, 0) if s == LAST else (t, t),
    "the first layer at one scale": lambda s, t: (0, t) if s == 3 else (t, t),
    "the first layer always": lambda s, t: (0, t),
    "the observer after the first scale": lambda s, t: (t, 0) if s else (t, t),
    "everything after the first scale": lambda s, t: (0, 0) if s else (t, t),
    "the last scale": lambda s, t: (0, 0) if s == LAST else (t, t),
    "a scale in the middle": lambda s, t: (0, 0) if s == 4 else (t, t),
    "all tokens but one": lambda s, t: (1, 1),
}


@pytest.mark.parametrize("kept", KEPT.values(), ids=KEPT.keys())
def test_layers_that_are_left_out(kept: Counts, session: Session, reference: Session) -> None:
    plan = with_kept(session.plan, kept)
    watched = _Watched(session)
    own = Session(watched, plan, session.sampling, session.tokenize)(PROMPT, generator=9).images[0]  # type: ignore[arg-type]
    expected = run(reference, plan)
    assert equal_bits(own, expected) >= 0.999
    assert psnr(own.pixels, expected.pixels) >= 40
    # a layer's cache holds what it kept and nothing else
    counts = np.cumsum([kept(scale, one.tokens) for scale, one in enumerate(plan.scales)], axis=0)
    assert watched.keys == counts.tolist()
    dense = run(session, plan, dense=True)
    first = next(s for s, one in enumerate(plan.scales) if tuple(kept(s, one.tokens)) != (one.tokens,) * LAYERS)
    same = [np.array_equal(a, b) for a, b in zip(own.bits, dense.bits, strict=True)]
    assert all(same[:first])
    assert not all(same[first:]) or kept is KEPT["the last scale"]


@pytest.mark.parametrize("left_out", [LAST, 4])
def test_a_scale_that_is_left_out_adds_nothing(left_out: int, session: Session) -> None:
    backend, plan = session.backend, with_kept(session.plan, lambda s, t: (0, 0) if s == left_out else (t, t))
    sums: list[np.ndarray] = []

    class Summing(_Watched):
        def step(self, state: State, controls: Controls) -> StepResult:
            result = backend.step(state, controls)
            sums.append(result.state.tensors["summed"].numpy())
            return result

    Session(Summing(session), plan, session.sampling, session.tokenize)(PROMPT)  # type: ignore[arg-type]
    assert np.array_equal(sums[left_out], sums[left_out - 1])
    for scale in set(range(1, LAST + 1)) - {left_out}:
        assert not np.array_equal(sums[scale], sums[scale - 1])


def test_an_observed_layer_needs_keys(session: Session) -> None:
    assert session.plan.ranking.observers == (1,)
    with pytest.raises(ArtefactError, match=r"scales\[0\]\.kept\[1\]: expected 1, since the layer is observed, got 0"):
        with_kept(session.plan, lambda s, t: (t, t) if s else (t, 0))
    # with a depth rule the first scale runs dense whatever the plan says of it
    with_kept(session.plan, lambda s, t: (t, t) if s else (t, 0), session.plan.depth_rule)


@pytest.mark.parametrize("depth", [4, 6, 7])
def test_the_depth_rule_decides_from_which_scale_on(depth: int, session: Session) -> None:
    assert session.plan.depth_rule is not None
    rule = dataclasses.replace(session.plan.depth_rule, thresholds=(), depths=(depth,))
    plan = with_kept(session.plan, lambda s, t: (max(t // 3, 1),) * 2 if s else (t, t), rule)
    image, dense = run(session, plan), run(session, plan, dense=True)
    assert (image.depth, dense.depth) == (depth, 7)
    assert image.statistic is not None
    assert dense.statistic is None
    same = [np.array_equal(a, b) for a, b in zip(image.bits, dense.bits, strict=True)]
    assert all(same[:depth])
    assert depth == 7 or not same[depth]


@pytest.mark.parametrize(("ratio", "side"), [(0.0, 0), (1.0, 1)])
def test_extremes_of_the_statistic(ratio: float, side: int, session: Session) -> None:
    """No token low, or all of them: the threshold for low is put out of reach on either side."""
    assert session.plan.depth_rule is not None
    low_below = -1e6 if ratio == 0 else 1e6
    rule = DepthRule("low_entropy_ratio", 3, low_below, (0.5,), (4, 6))
    image = run(session, with_kept(session.plan, lambda s, t: (max(t // 2, 1),) * 2 if s else (t, t), rule))
    assert image.statistic == ratio
    assert image.depth == rule.depths[side]
