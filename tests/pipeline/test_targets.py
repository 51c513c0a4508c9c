"""Plans for a measured speed-up or a bounded loss of quality, with made-up measurements."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toprovar.errors import UsageError
from toprovar.evaluation.suites.shapes import CALIBRATION_PROMPTS, PROMPTS
from toprovar.pipeline import targets
from toprovar.pipeline.targets import Planner, SuiteJudge, Target, find_plan, measure_speedup

LEAST = 0.2


@dataclasses.dataclass
class Store:
    """Knows a plan by its share of FLOPs; a session of it hands that on."""

    subject: Any
    made: list[float] = dataclasses.field(default_factory=list)

    def session(self, plan: float) -> Any:
        self.made.append(plan)

        def call(text: str, generator: int = 0, dense: bool = False) -> Any:
            image = SimpleNamespace(image=np.full((2, 2, 3), 0 if dense else round(100 * (1 - plan)), np.uint8))
            return SimpleNamespace(images=[image], seconds=1.0 if dense else plan)

        return call


def policy(stats: object, task: float) -> float:
    if task < LEAST:
        raise UsageError("out of reach")
    return task


@pytest.fixture
def planner() -> Planner:
    store = Store(SimpleNamespace(task=lambda flops, prompts: flops))
    return Planner(policy, None, store, ("a", "b", "c"))  # type: ignore[arg-type]


class Judge(SuiteJudge):
    """Loses 0.01 for each per cent of FLOPs saved beyond half of them."""

    def __init__(self) -> None:
        pass

    @property
    def texts(self) -> list[str]:
        return ["x", "y"]

    def __call__(self, images: Any) -> float:
        return 0.9 - max(float(images[0].max()) - 50, 0) / 100


def test_a_share_of_flops_is_taken_as_it_is(planner: Planner) -> None:
    found = find_plan(planner, Target(flops=0.7))
    assert (found.plan, found.flops, found.measured) == (0.7, 0.7, None)
    assert planner.store.made == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("speedup", [1.2, 2.0, 3.5])
def test_the_mildest_plan_that_is_fast_enough(speedup: float, planner: Planner) -> None:
    found = find_plan(planner, Target(speedup=speedup))
    assert found.measured is not None
    assert speedup <= found.measured <= speedup * 1.15
    assert found.flops == pytest.approx(1 / found.measured)


def test_a_speedup_that_cannot_be_had(planner: Planner) -> None:
    expected = "a speed-up of 9 is out of reach on this machine; the strongest plan of this policy reached 4.76 at 21%"
    with pytest.raises(UsageError, match=re.escape(expected)) as caught:
        find_plan(planner, Target(speedup=9.0))
    assert "--target-speedup 4.75" in str(caught.value)


@pytest.mark.parametrize(("limit", "most"), [(0.0, 0.53), (0.1, 0.43), (0.5, 0.21)])
def test_the_strongest_plan_that_is_good_enough(limit: float, most: float, planner: Planner) -> None:
    found = find_plan(planner, Target(quality_drop=limit), Judge())
    assert found.measured is not None
    assert found.measured <= limit + 1e-9
    assert found.flops <= most + 0.03


def test_no_plan_is_good_enough(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "__call__", lambda self, images: 0.9 - (images[0].max() > 0) * 0.5)
    with pytest.raises(
        UsageError, match=r"keeps the score within 0.01 of dense; the mildest that was tried lost 0.500"
    ):
        find_plan(planner, Target(quality_drop=0.01), Judge())


def test_speed_is_that_of_both_ways_in_turn() -> None:
    order = []

    def session(text: str, generator: int = 0, dense: bool = False) -> Any:
        order.append(dense)
        return SimpleNamespace(seconds=3.0 if dense else 1.5)

    assert measure_speedup(session, ("a", "b"), rounds=2) == 2  # type: ignore[arg-type]
    assert order == [True, False] * 5


def test_nano_is_judged_on_prompts_that_are_not_the_suites_own() -> None:
    judge = SuiteJudge.of("nano")
    assert judge.suite == "shapes"
    assert set(judge.texts) == {prompt.text for prompt in CALIBRATION_PROMPTS}
    assert not set(judge.texts) & {prompt.text for prompt in PROMPTS}
    with pytest.raises(UsageError, match=r"no suite can judge the images of x\.pth"):
        SuiteJudge.of("x.pth")


def test_the_weakest_target_of_a_policy(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    assert planner.least() == pytest.approx(0.21)
    monkeypatch.setattr(targets, "_STRONGEST", 0.5)
    assert planner.least() == 0.5
