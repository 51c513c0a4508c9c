"""A bench for studies: one model, its calibration, and any plan of any policy on the engine that is deployed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toprovar.calibration.policy import Policy
from toprovar.calibration.prompt_table import PromptTable
from toprovar.calibration.prompts import GENERAL_PROMPTS
from toprovar.cost import plan_share
from toprovar.errors import UsageError
from toprovar.evaluation.fidelity import MOST_PSNR, psnr
from toprovar.extensions import BUILDS, POLICIES, SUITES
from toprovar.pipeline.builds.base import Build
from toprovar.pipeline.calibrating import calibrated
from toprovar.pipeline.probing import ProbedScale, probe
from toprovar.pipeline.subject import Subject
from toprovar.plan import Ranking, SparsityPlan
from toprovar.progress import Stages
from toprovar.pruning import Restoration
from toprovar.runtime.session import GeneratedImage, Session
from toprovar.stats import CalibrationStats

__all__ = ["Laboratory", "Outcome", "Probe", "Run"]

_TIMED_EACH = 8
"""Prompts of which one is drawn densely as well, in turn, for the time: a machine is not as fast all day."""

Probe = Callable[[str, int], Iterator[ProbedScale]]
"""The scales of a dense generation, to be tried in several ways: (prompt, seed)."""


@dataclass(frozen=True)
class Outcome:
    """One prompt, drawn.

    Attributes:
        passed: whether the suite's checker found what was asked for.
        category: the prompt's.
        psnr: to the dense image of the same noise in dB, at most `MOST_PSNR`.
        seconds: wall-clock, text and decoding included.
        analysis_seconds: the host's share of ranking and depth rule.
        flops: transformer FLOPs over dense.
        depth: first scale that ran sparse.
        dense_seconds: wall-clock of the dense image, drawn right after by the same session; None where it was not.
    """

    passed: bool
    category: str
    psnr: float
    seconds: float
    analysis_seconds: float
    flops: float
    depth: int
    dense_seconds: float | None = None


@dataclass(frozen=True)
class Run:
    """A plan over a set of prompts."""

    name: str
    outcomes: tuple[Outcome, ...]

    def values(self, name: str) -> list[float]:
        """One figure of every outcome."""
        return [float(getattr(one, name)) for one in self.outcomes]

    def mean(self, name: str) -> float:
        """Its mean."""
        return float(np.mean(self.values(name)))

    @property
    def times_faster(self) -> float:
        """Than dense: all prompts that were drawn in both ways, by the time of all of them."""
        timed = [one for one in self.outcomes if one.dense_seconds is not None]
        return sum(one.dense_seconds or 0.0 for one in timed) / sum(one.seconds for one in timed)

    @property
    def categories(self) -> list[str]:
        """Category of every outcome."""
        return [one.category for one in self.outcomes]


@dataclass
class Laboratory:
    """Everything a study needs; the dense images are drawn once.

    Args:
        subject: the model.
        folder: where calibration and graphs are kept between studies of one run.
        stages: told how far it is.
        suite: name of the suite that judges.
        seed: of the calibration.
        prompts: calibration prompts; the model's own if None.
        backend: engine that draws, ``onnxruntime`` or ``torch``, which needs no export; both in fp32.
    """

    subject: Subject
    folder: Path
    stages: Stages
    suite: str = "shapes"
    seed: int = 0
    prompts: Sequence[str] | None = None
    backend: str = "onnxruntime"
    _drawn: dict[tuple[str, int], tuple[GeneratedImage, float]] = field(default_factory=dict, init=False)
    _stats: dict[tuple[Any, ...], CalibrationStats] = field(default_factory=dict, init=False)
    _tables: dict[tuple[Any, ...], Path] = field(default_factory=dict, init=False)
    _builds: dict[str, Build] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def calibration_prompts(self) -> tuple[str, ...]:
        """What is calibrated with."""
        return tuple(self.prompts or self.subject.loaded.prompts or GENERAL_PROMPTS)

    def stats(
        self, probes: Restoration | None = None, *, seed: int | None = None, prompts: Sequence[str] | None = None
    ) -> CalibrationStats:
        """A calibration, made once.

        Args:
            probes: the restoration to measure sensitivities with; None measures none.
            seed: another than the laboratory's.
            prompts: others than the laboratory's.
        """
        texts, own = tuple(prompts or self.calibration_prompts), self.seed if seed is None else seed
        key = probes, own, texts
        if key not in self._stats:
            table = self._table_file(own, texts)
            self._stats[key] = calibrated(self.subject, texts, own, self.stages, table, probes=probes).stats
        return self._stats[key]

    def table(self, *, seed: int | None = None) -> PromptTable:
        """A calibration prompt by prompt."""
        stats = self.stats(seed=seed)
        return PromptTable.load(self._table_file(stats.seed, self.calibration_prompts), stats)

    def _table_file(self, *key: Any) -> Path:
        return self._tables.setdefault(key, self.folder / f"calibration-{len(self._tables)}.safetensors")

    def policy(self, name: str, **parameters: Any) -> Policy:
        """A policy with some parameters changed."""
        found: Policy = POLICIES.load(name)
        return dataclasses.replace(found, **parameters) if parameters else found  # type: ignore[type-var]

    def plan(self, policy: Policy, flops: float, stats: CalibrationStats | None = None) -> SparsityPlan:
        """A policy's plan for a share of dense FLOPs."""
        own = stats or self.stats(policy.probes)
        return policy(own, self.subject.task(flops, self.calibration_prompts))

    def plan_within_reach(
        self, name: str, policy: Policy, flops: float, stats: CalibrationStats | None = None
    ) -> SparsityPlan | None:
        """The same; None where the policy does not reach that share, with a remark that says so.

        Args:
            name: what the remark calls the plan.
            policy: what decides.
            flops: share of dense FLOPs.
            stats: as of `plan`.
        """
        try:
            return self.plan(policy, flops, stats)
        except UsageError as error:
            self.stages.remark(f"{name}: {error.message}")
            return None

    def probe(self, ranking: Ranking, restoration: Restoration = "identity") -> Probe:
        """Dense generations whose scales can be tried in several ways, on the model itself.

        Args:
            ranking: what the trials see as the order of their tokens.
            restoration: what becomes of tokens that a trial leaves out.
        """
        backend = self.subject.torch_backend(ranking, restoration, reuses_guidance=True)
        session = self.subject.session(backend)
        return lambda prompt, seed: probe(session, backend, prompt, seed)

    def session(self, plan: SparsityPlan, name: str = "plan") -> Session:
        """A session of a plan, which another of the same name may end."""
        kind: type[Build] = BUILDS.load(self.backend)
        place = name if kind.keeps_one else "graphs"
        if place not in self._builds:
            self._builds[place] = kind(self.subject, self.folder / place, self.stages, "fp32", portable=True)
        return self._builds[place].session(plan)

    def suite_prompts(self, limit: int | None = None) -> Sequence[Any]:
        """The suite's prompts, which nothing was tuned on."""
        return SUITES.load(self.suite).prompts(limit)

    def run(self, name: str, plan: SparsityPlan, prompts: Sequence[Any]) -> Run:
        """Draws every prompt by a plan and compares with dense images of the same noise.

        Args:
            name: what the run is called.
            plan: what to run.
            prompts: of the suite.
        """
        session = self.session(plan)
        for densely in (False, True):
            session(prompts[0].text, dense=densely)  # loads the graphs
        made: list[GeneratedImage] = []
        seconds, analysis = [], []
        whole_seconds: list[float | None] = []
        for index, prompt in enumerate(prompts):
            generation = session(prompt.text, generator=index)
            made.append(generation.images[0])
            seconds.append(generation.seconds)
            analysis.append(generation.analysis_seconds)
            timed = index % _TIMED_EACH == 0
            whole_seconds.append(session(prompt.text, generator=index, dense=True).seconds if timed else None)
            self.stages.progress(name, index + 1, len(prompts))
        dense = [self._dense_image(prompt.text, index)[0] for index, prompt in enumerate(prompts)]
        marks = self._judged(prompts, made)
        outcomes = (
            Outcome(
                passed=result.ok,
                category=prompt.requirements.category,
                psnr=min(psnr(own.pixels, whole.pixels), MOST_PSNR),
                seconds=taken,
                analysis_seconds=host,
                flops=plan_share(plan, self.subject.record, own.depth, len(self.subject.text.token_ids(own.prompt))),
                depth=own.depth,
                dense_seconds=in_whole,
            )
            for prompt, own, whole, result, taken, host, in_whole in zip(
                prompts, made, dense, marks.results, seconds, analysis, whole_seconds, strict=True
            )
        )
        return Run(name, tuple(outcomes))

    def run_dense(self, prompts: Sequence[Any]) -> Run:
        """The dense model over the prompts."""
        drawn = []
        for index, prompt in enumerate(prompts):
            drawn.append(self._dense_image(prompt.text, index))
            self.stages.progress("dense", index + 1, len(prompts))
        marks = self._judged(prompts, [image for image, _ in drawn])
        scales = len(self.subject.grids)
        outcomes = (
            Outcome(result.ok, prompt.requirements.category, MOST_PSNR, seconds, 0.0, 1.0, scales, seconds)
            for prompt, result, (_, seconds) in zip(prompts, marks.results, drawn, strict=True)
        )
        return Run("dense", tuple(outcomes))

    def _judged(self, prompts: Sequence[Any], images: Sequence[GeneratedImage]) -> Any:
        try:
            return SUITES.load(self.suite).score(prompts, [one.picture for one in images])
        except ValueError as error:
            problem = f"the suite {self.suite!r} cannot judge these images: {error}"
            raise UsageError(problem, "leave --resolution out, or name another --suite") from error

    def _dense_image(self, text: str, seed: int) -> tuple[GeneratedImage, float]:
        if (text, seed) not in self._drawn:
            if not self._drawn:
                self._dense_session(text, dense=True)  # loads the graphs
            generation = self._dense_session(text, generator=seed, dense=True)
            self._drawn[text, seed] = generation.images[0], generation.seconds
        return self._drawn[text, seed]

    @functools.cached_property
    def _dense_session(self) -> Session:
        return self.session(self.subject.dense_plan(), "dense")
