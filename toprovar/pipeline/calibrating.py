"""Runs a calibration on the model itself, with a journal that survives an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toprovar.calibration.calibrate import Observe, Probes, calibrate
from toprovar.calibration.journal import Journal, cache_folder, fingerprint
from toprovar.calibration.recorder import EntropyRecorder
from toprovar.calibration.recording import Recording
from toprovar.calibration.sensitivity import LayerRecord, ScaleRecord, measure_layers, measure_scales
from toprovar.models.observer import Observer
from toprovar.pipeline.probing import probe as probed_scales
from toprovar.pipeline.subject import Subject
from toprovar.plan import Ranking
from toprovar.progress import Stages
from toprovar.pruning import Restoration
from toprovar.runtime.session import Session
from toprovar.stats import CalibrationStats

__all__ = ["Calibrated", "calibrated"]

_PROBED_SCALES = 5
"""Scales that are probed, from the last: nearly all of the FLOPs."""


@dataclass(frozen=True)
class Calibrated:
    """A calibration.

    Attributes:
        stats: what it measured.
        journal: to be cleared once they have served.
    """

    stats: CalibrationStats
    journal: Journal


def calibrated(
    subject: Subject,
    prompts: Sequence[str],
    seed: int,
    stages: Stages,
    table: Path,
    probes: Restoration | None = None,
) -> Calibrated:
    """Calibrates, or goes on where an earlier run was interrupted.

    On an NVIDIA GPU both passes run on the runtime, as the deployment will, and what they held of its memory is free
    afterwards; elsewhere, and for sensitivities, the model's own modules run.

    Args:
        subject: the model.
        prompts: calibration prompts.
        seed: of the first prompt's noise.
        stages: told how far it is.
        table: where the measurements prompt by prompt are written.
        probes: the restoration to measure sensitivities with; None measures none.

    Raises:
        ToProVARError: anything that the user can mend.
    """
    record, grids = subject.record, subject.grids
    recorder = EntropyRecorder(grids, record.layers, record.heads)
    runtime = subject.runtime()
    with contextlib.ExitStack() as held:

        def opened(ranking: Ranking, observer: Observer | None = None) -> Session:
            """A session in the place of the one before."""
            held.close()
            backend = subject.torch_backend(ranking, observer=observer, runtime=runtime)
            return held.enter_context(subject.session(backend))

        watched = opened(Ranking("none"), recorder)

        def measure(prompt: str, own: int) -> Recording:
            watched.run_scales(prompt, own)
            return recorder.recording()

        def observe(ranking: Ranking) -> Observe:
            return opened(ranking).observe

        def probe(ranking: Ranking) -> Probes:
            held.close()
            return _probes(subject, ranking, probes or "identity")

        # The model's hash does not cover a text encoder of its own folder, so what it makes of a prompt stands for it.
        features = watched.backend.encode_text(subject.text.token_ids(prompts[0])) if prompts else None
        others = {
            "torch": importlib.metadata.version("torch"),
            "device": subject.device.type,
            "engine": "modules in fp32" if runtime is None else f"runtime in {runtime.precision}",
            "text": hashlib.sha256(b"" if features is None else features.tobytes()).hexdigest(),
        }
        key = fingerprint(record, watched.sampling, grids, prompts, seed, others)
        journal = Journal(cache_folder(), key, stages.remark)
        stats = calibrate(
            record,
            grids,
            prompts,
            seed,
            measure,
            observe,
            stages.progress,
            journal,
            table,
            probe if probes is not None else None,
            probes or "",
        )
    return Calibrated(stats, journal)


def _probes(subject: Subject, ranking: Ranking, restoration: Restoration) -> Probes:
    """Tries late scales in other ways, with the model's own modules."""
    backend = subject.torch_backend(ranking, restoration, reuses_guidance=True)
    session = subject.session(backend)
    guided = any(value != 1 for value in session.sampling.guidance)
    scales, layers = len(subject.grids), subject.record.layers
    first = max(scales - _PROBED_SCALES, 1)

    def of_layers(prompt: str, own: int) -> LayerRecord:
        return measure_layers(probed_scales(session, backend, prompt, own), scales, layers, first)

    def of_scales(prompt: str, own: int) -> ScaleRecord:
        return measure_scales(probed_scales(session, backend, prompt, own), scales, layers, first, guided)

    return Probes(of_layers, of_scales)
