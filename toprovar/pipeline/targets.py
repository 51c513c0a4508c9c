"""What a plan is to reach, and the search for it: a share of FLOPs, a measured speed-up, or a bounded loss of quality.

The last two are found by trying plans on the engine that was built: kept counts are inputs of the graphs, so that
another plan of the same policy rarely needs another export.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from toprovar.calibration.policy import Policy
from toprovar.errors import UsageError
from toprovar.extensions import SUITES
from toprovar.pipeline.subject import Subject
from toprovar.plan import SparsityPlan
from toprovar.runtime.session import Session
from toprovar.stats import CalibrationStats

__all__ = [
    "Found",
    "Planner",
    "SuiteJudge",
    "Target",
    "Trials",
    "find_plan",
    "measure_speedup",
    "plan_for_quality",
    "plan_for_speedup",
]

_TRIES = 5
_STRONGEST, _STEP = 0.05, 0.02


@dataclass(frozen=True)
class Target:
    """What a plan is to reach; the first that is given counts.

    Attributes:
        speedup: seconds of dense over those of the plan, end to end, on this machine.
        quality_drop: how much the score of the model's suite may fall, on calibration prompts.
        flops: transformer FLOPs as a share of dense, averaged over the calibration prompts.
    """

    speedup: float | None = None
    quality_drop: float | None = None
    flops: float = 0.55


@dataclass(frozen=True)
class SuiteJudge:
    """Scores images by a suite, on its calibration prompts: those that it judges by in the end are not looked at.

    Attributes:
        suite: name of the suite.
        prompts: what to draw.
    """

    suite: str
    prompts: Sequence[Any]

    @classmethod
    def of(cls, model: str) -> SuiteJudge:
        """The judge of a model.

        Raises:
            UsageError: no suite knows what the model draws.
        """
        for name in SUITES.names():
            suite = SUITES.load(name)
            if model in suite.models:
                return cls(name, suite.calibration_prompts())
        raise UsageError(
            f"no suite can judge the images of {model}, so that a loss of quality cannot be bounded",
            "give --target-speedup or --target-flops",
        )

    @property
    def texts(self) -> list[str]:
        """The prompts' texts."""
        return [prompt.text for prompt in self.prompts]

    def __call__(self, images: Sequence[np.ndarray]) -> float:
        """The score of one image a prompt, from 0 to 1."""
        return float(SUITES.load(self.suite).score(self.prompts, images).mean)


class Trials(Protocol):
    """Where plans are tried (`toprovar.pipeline.builds`).

    Attributes:
        subject: the model.
    """

    subject: Subject

    def session(self, plan: SparsityPlan) -> Session:
        """A session of a plan on the engine."""


@dataclass(frozen=True)
class Planner:
    """Makes plans of one policy.

    Attributes:
        policy: what decides.
        stats: what it decides by.
        store: builds what is tried.
        prompts: texts that costs are counted for, and speed is measured with.
    """

    policy: Policy
    stats: CalibrationStats
    store: Trials
    prompts: Sequence[str]

    def plan(self, flops: float) -> SparsityPlan:
        """The plan for a share of dense FLOPs."""
        return self.policy(self.stats, self.store.subject.task(flops, self.prompts))

    def least(self) -> float:
        """About the smallest share of FLOPs that the policy reaches.

        Raises:
            UsageError: it reaches none.
        """
        flops = _STRONGEST
        while flops < 1:
            try:
                self.plan(flops)
            except UsageError:
                flops += _STEP
            else:
                return flops
        self.plan(1.0)
        return 1.0


@dataclass(frozen=True)
class Found:
    """A plan and what was measured of it.

    Attributes:
        plan: the plan.
        flops: the target that the policy was given.
        measured: speed-up or loss of quality, whichever was asked for; None for a share of FLOPs.
    """

    plan: SparsityPlan
    flops: float
    measured: float | None


@dataclass(frozen=True)
class _Tried(Found):
    measured: float


def find_plan(planner: Planner, target: Target, judge: SuiteJudge | None = None) -> Found:
    """The plan for a target.

    Args:
        planner: makes plans.
        target: what to reach.
        judge: needed for a bounded loss of quality.

    Raises:
        UsageError: the policy does not reach it.
    """
    if target.speedup is not None:
        return plan_for_speedup(planner, target.speedup)
    if target.quality_drop is not None and judge is not None:
        return plan_for_quality(planner, target.quality_drop, judge)
    return Found(planner.plan(target.flops), target.flops, None)


def plan_for_speedup(planner: Planner, target: float, tries: int = _TRIES) -> Found:
    """The plan with most FLOPs that is `target` times faster than dense, end to end, on this machine.

    Raises:
        UsageError: the policy's strongest plan is not.
    """

    def attempt(flops: float) -> _Tried:
        plan = planner.plan(flops)
        return _Tried(plan, flops, measure_speedup(planner.store.session(plan), planner.prompts[:2]))

    strongest = attempt(planner.least())
    if strongest.measured < target:
        raise UsageError(
            f"a speed-up of {target:g} is out of reach on this machine; the strongest plan of this policy reached "
            f"{strongest.measured:.2f} at {strongest.flops:.0%} of the transformer's FLOPs",
            f"give --target-speedup {np.floor(strongest.measured * 20) / 20:.2f} or less, or another policy",
        )
    tried = _bisect(attempt, lambda value: value >= target, strongest.flops, 1.0, tries)
    return next((one for one in reversed(tried) if one.measured >= target), strongest)


def plan_for_quality(planner: Planner, limit: float, judge: SuiteJudge, tries: int = _TRIES) -> Found:
    """The plan with fewest FLOPs whose score is at most `limit` below that of dense, on the judge's prompts.

    Raises:
        UsageError: no plan that saves anything keeps within the limit.
    """
    store = planner.store
    dense = judge(_draw(store.session(planner.plan(1.0)), judge.texts, dense=True))

    def attempt(flops: float) -> _Tried:
        plan = planner.plan(flops)
        return _Tried(plan, flops, dense - judge(_draw(store.session(plan), judge.texts, dense=False)))

    strongest = attempt(planner.least())
    if strongest.measured <= limit:
        return strongest
    tried = _bisect(attempt, lambda value: value <= limit, 1.0, strongest.flops, tries)
    good = [one for one in tried if one.measured <= limit]
    if not good:
        mildest = min(tried, key=lambda one: one.measured)
        raise UsageError(
            f"no plan of this policy keeps the score within {limit:g} of dense; the mildest that was tried lost "
            f"{mildest.measured:.3f} at {mildest.flops:.0%} of the transformer's FLOPs",
            "give a larger --max-quality-drop, or another policy",
        )
    return good[-1]


def _bisect(
    attempt: Callable[[float], _Tried], good: Callable[[float], bool], safe: float, wanted: float, tries: int
) -> list[_Tried]:
    """Tries shares of FLOPs between one that is good and one that is wished for, ever nearer to the border."""
    tried = []
    for _ in range(tries):
        flops = (safe + wanted) / 2
        tried.append(attempt(flops))
        safe, wanted = (flops, wanted) if good(tried[-1].measured) else (safe, flops)
    return tried


def measure_speedup(session: Session, prompts: Sequence[str], rounds: int = 3) -> float:
    """Seconds of a dense generation over those of a sparse one, text and decoding included; medians, taken in turn."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for dense in seconds:
        session(prompts[0], dense=dense)  # loads and warms the graphs
    for seed in range(rounds):
        for prompt in prompts:
            for dense, taken in seconds.items():
                taken.append(session(prompt, generator=seed, dense=dense).seconds)
    return statistics.median(seconds[True]) / statistics.median(seconds[False])


def _draw(session: Session, texts: Sequence[str], dense: bool) -> list[np.ndarray]:
    images = (session(text, generator=index, dense=dense).images[0].image for index, text in enumerate(texts))
    return [np.asarray(image) for image in images]
