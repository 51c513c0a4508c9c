"""Runs the calibration prompts and gathers what policies decide by."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from toprovar.calibration.depth_rule import LOW_BELOW
from toprovar.calibration.fold import Fold
from toprovar.calibration.journal import Journal
from toprovar.calibration.prompt_table import PromptTableWriter
from toprovar.calibration.prompts import prompts_digest
from toprovar.calibration.ranking import entropy_ranking
from toprovar.calibration.recording import Observation, Recording
from toprovar.calibration.sensitivity import LayerRecord, ScaleRecord, with_sensitivity
from toprovar.errors import UsageError
from toprovar.manifest import ModelRecord
from toprovar.plan import Ranking
from toprovar.stats import CalibrationStats, PromptStats

__all__ = ["Observe", "Probes", "calibrate"]

Measure = Callable[[str, int], Recording]
"""Generates an image densely and returns what it showed: (prompt, seed)."""


class ObservedScale(Protocol):
    """What a deployment sees of one scale."""

    @property
    def entropy(self) -> np.ndarray:
        """Standardised entropy of every token, [tokens]."""

    @property
    def high_frequency(self) -> float:
        """Mean change that the scale makes to the edges of the picture."""


Observe = Callable[[str, int], Sequence[ObservedScale]]
"""Generates an image densely and returns what was seen of every scale."""


@dataclass(frozen=True)
class Probes:
    """Generates an image densely and tries its late scales in other ways: (prompt, seed).

    Attributes:
        layers: every layer alone.
        scales: all layers alike.
    """

    layers: Callable[[str, int], LayerRecord]
    scales: Callable[[str, int], ScaleRecord]


Progress = Callable[[str, int, int], None]
"""Told (stage, done, total), once at a stage's beginning and then after every prompt."""

_Entry = TypeVar("_Entry")
_Probed = TypeVar("_Probed", LayerRecord, ScaleRecord)

_PROBED_LAYERS = 4
"""Prompts that sensitivities of layers are measured with: a mean over thousands of bits each, and dear."""

_PROBED_SCALES = 8
"""Prompts that whole scales are tried with: pictures differ more than bits, and some far more than others."""


def calibrate(
    model: ModelRecord,
    schedule: Sequence[tuple[int, int]],
    prompts: Sequence[str],
    seed: int,
    measure: Measure,
    observe: Callable[[Ranking], Observe],
    progress: Progress,
    journal: Journal,
    table: Path,
    probe: Callable[[Ranking], Probes] | None = None,
    probed_with: str = "",
) -> CalibrationStats:
    """Two passes over the prompts, and two more over some of them.

    The first measures every layer. The second, with the moments of the first, measures what a deployment
    will: the share of low-entropy tokens of each prompt at each scale. The others measure what pruning does.
    What the journal holds is not measured again, and the result is the same to the last bit, times apart.

    Args:
        model: facts of the model.
        schedule: token grid of every scale.
        prompts: calibration prompts.
        seed: prompt i is drawn with seed + i.
        measure: first pass.
        observe: makes the second pass's function for a ranking.
        progress: told how far it is.
        journal: what an earlier, interrupted run has finished, and where this one keeps what it finishes.
        table: where the first pass's measurements prompt by prompt are written
            (`toprovar.calibration.prompt_table`).
        probe: makes the last passes' functions for a ranking; None leaves sensitivities unmeasured.
        probed_with: what else those functions depend on.

    Raises:
        UsageError: no prompts.
        ArtefactError: the table cannot be written.
    """
    if not prompts:
        raise UsageError("no calibration prompts; expected one a line", "give a file that holds some with --prompts")
    run = _Run(tuple(prompts), seed, journal, progress, range(len(prompts)))
    grids = tuple((height, width) for height, width in schedule)
    seconds = dict.fromkeys(("generation", "entropy", "principal components", "observation"), 0.0)

    def timed(prompt: str, own: int) -> Recording:
        started = time.perf_counter()
        recording = measure(prompt, own)
        elapsed = time.perf_counter() - started
        watching = recording.entropy_seconds + recording.principal_component_seconds
        return dataclasses.replace(recording, generation_seconds=max(elapsed - watching, 0.0))

    fold = Fold(grids, model.layers, model.heads)
    entropy_means: list[tuple[float, ...]] = []
    with PromptTableWriter(table, len(prompts), len(grids), model.layers, model.heads) as rows:
        for recording in run.entries("calibrate", "calibration", Recording, timed):
            fold.add(recording)
            rows.add(recording)
            entropy_means.append(_entropy_mean(recording, grids))
            seconds["generation"] += recording.generation_seconds
            seconds["entropy"] += recording.entropy_seconds
            seconds["principal components"] += recording.principal_component_seconds
    first = CalibrationStats(
        model_sha256=model.sha256,
        prompts_sha256=prompts_digest(prompts),
        seed=seed,
        schedule=grids,
        layers=model.layers,
        heads=model.heads,
        scales=fold.scales(),
        prompts=(),
        seconds=seconds,
    )
    ranking = entropy_ranking(first)
    watch = observe(ranking)

    def observed(prompt: str, own: int) -> Observation:
        started = time.perf_counter()
        seen = watch(prompt, own)
        ratios = np.array([float((scale.entropy < LOW_BELOW).mean()) for scale in seen])
        changes = np.array([scale.high_frequency for scale in seen])
        return Observation(ratios, changes, time.perf_counter() - started)

    basis = hashlib.sha256(f"{LOW_BELOW} {ranking.to_json()}".encode()).hexdigest()
    measured: list[PromptStats] = []
    for observation in run.entries("observe", "observation", Observation, observed, basis):
        index = len(measured)
        ratios, changes = (
            tuple(values.tolist()) for values in (observation.low_entropy_ratio, observation.high_frequency)
        )
        measured.append(PromptStats(prompts[index], seed + index, entropy_means[index], ratios, changes))
        seconds["observation"] += observation.seconds
    stats = dataclasses.replace(first, prompts=tuple(measured), seconds=seconds)
    if probe is None:
        return stats
    tried = probe(ranking)
    basis = f"{basis} {probed_with}"
    layers = list(run.some(_PROBED_LAYERS).entries("probe layers", "layers", LayerRecord, _timed(tried.layers), basis))
    scales = list(run.some(_PROBED_SCALES).entries("probe scales", "scales", ScaleRecord, _timed(tried.scales), basis))
    seconds["sensitivity"] = sum(one.seconds for one in layers) + sum(one.seconds for one in scales)
    return with_sensitivity(dataclasses.replace(stats, seconds=seconds), layers, scales)


def _timed(probe: Callable[[str, int], _Probed]) -> Callable[[str, int], _Probed]:
    def timed(prompt: str, own: int) -> _Probed:
        started = time.perf_counter()
        record = probe(prompt, own)
        return dataclasses.replace(record, seconds=time.perf_counter() - started)

    return timed


@dataclass(frozen=True)
class _Run:
    """What both passes share."""

    prompts: tuple[str, ...]
    seed: int
    journal: Journal
    progress: Progress
    indices: Sequence[int]

    def some(self, count: int) -> _Run:
        """The same with `count` prompts at most, spread over all."""
        total = len(self.prompts)
        chosen = [index * total // min(count, total) for index in range(min(count, total))]
        return dataclasses.replace(self, indices=chosen)

    def entries(
        self, stage: str, name: str, kind: type[_Entry], make: Callable[[str, int], _Entry], basis: str = ""
    ) -> Iterator[_Entry]:
        """Every prompt's entry in order, from the journal where it has it; one at a time in memory."""
        total = len(self.indices)
        # The count must be right before the first is made, hence what is held is read twice.
        held = {index: self.journal.load(kind, index, basis) is not None for index in self.indices}
        done = sum(held.values())
        if done:
            self.journal.remark(f"resuming {name}: {done} of {total} prompts are done")
        self.progress(stage, done, total)
        for index in self.indices:
            entry = self.journal.load(kind, index, basis) if held[index] else None
            if entry is None:
                entry = make(self.prompts[index], self.seed + index)
                self.journal.store(entry, index, basis)
            if not held[index]:
                done += 1
                self.progress(stage, done, total)
            yield entry


def _entropy_mean(recording: Recording, schedule: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """Mean over layers, heads and tokens of every scale."""
    _, layers, heads = recording.entropy_sum.shape
    tokens = np.array([height * width for height, width in schedule])
    means = recording.entropy_sum.sum((1, 2)) / (tokens * layers * heads)
    return tuple(np.clip(means, 0, 1).tolist())
