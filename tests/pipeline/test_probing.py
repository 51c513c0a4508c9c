"""Scales of a real generation, tried in several ways."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from toprovar.calibration.ranking import entropy_ranking
from toprovar.calibration.sensitivity import SCALE_KEPT, measure_layers, measure_scales
from toprovar.pipeline.probing import ProbedScale, probe
from toprovar.pipeline.subject import Subject
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session
from toprovar.stats import CalibrationStats

from ..tiny_nano import LAYERS, Compiled, as_nano

PROMPT = "three red triangles"


@pytest.fixture(scope="module")
def bench(compiled: Compiled, weights: Path) -> tuple[Session, TorchBackend]:
    stats = CalibrationStats.load(compiled.folder / "report" / "calibration.json")
    with as_nano(weights):
        subject = Subject.open("nano", resolution="0.06M")
    backend = subject.torch_backend(entropy_ranking(stats), "cached", reuses_guidance=True)
    return subject.session(backend), backend


def scales(bench: tuple[Session, TorchBackend], seed: int = 3) -> Iterator[ProbedScale]:
    return probe(*bench, PROMPT, seed)


def test_the_dense_attempts_are_the_dense_generation(bench: tuple[Session, TorchBackend]) -> None:
    expected = bench[0](PROMPT, generator=3, dense=True).images[0].bits
    for scale, bits in zip(scales(bench), expected, strict=True):
        differences = scale.attempt((scale.tokens,) * LAYERS).differences
        drawn = np.where(np.abs(differences) >= scale.certain, differences, differences + scale.noise) > 0
        assert np.mean(drawn == bits) > 0.999


def test_an_attempt_changes_nothing_of_what_follows(bench: tuple[Session, TorchBackend]) -> None:
    def shown(disturbed: bool) -> list[np.ndarray]:
        seen = []
        for scale in scales(bench):
            if disturbed and scale.scale > 2:
                scale.attempt((0, 1), "omitted")
            seen.append(scale.attempt((scale.tokens,) * LAYERS).differences)
        return seen

    for one, other in zip(shown(False), shown(True), strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_guidance_omitting_the_unconditional_half_changes_nothing(
    bench: tuple[Session, TorchBackend],
) -> None:
    session, backend = bench
    for scale in scales(bench):
        dense = (scale.tokens,) * LAYERS
        full, omitted = scale.attempt(dense), scale.attempt(dense, "omitted")
        assert not np.allclose(full.differences, omitted.differences)
    sampling = type(session.sampling)(
        (1.0,) * 7, *(getattr(session.sampling, n) for n in ("temperature", "top_k", "top_p"))
    )
    plain = Session(backend, session.plan, sampling, session.tokenize)
    for scale in probe(plain, backend, PROMPT, 3):
        dense = (scale.tokens,) * LAYERS
        full, omitted = scale.attempt(dense), scale.attempt(dense, "omitted")
        np.testing.assert_allclose(full.differences, omitted.differences, atol=1e-4)


def test_sensitivity_of_a_real_model(bench: tuple[Session, TorchBackend]) -> None:
    record = measure_layers(scales(bench), 7, LAYERS, 5)
    tried = record.kl[5:]
    assert np.isfinite(tried).all()
    assert (tried > 0).all()
    # less kept hurts more, on the whole
    assert tried[..., -1].mean() > tried[..., 0].mean()
    assert np.isfinite(record.later_kl[5, :, 0]).all()
    assert np.isnan(record.later_kl[6]).all()


def test_whole_scales_of_a_real_model(bench: tuple[Session, TorchBackend]) -> None:
    record = measure_scales(scales(bench), 7, LAYERS, 5, guided=True)
    assert np.isfinite(record.picture_error[5:]).all()
    assert (record.picture_error[5:] > 0).all()
    pruned, spared = record.kl[5:, : len(SCALE_KEPT)], record.kl[5:, len(SCALE_KEPT) :]
    assert (pruned[:, -1] > pruned[:, 0]).all()
    assert (spared[:, 0] < spared[:, 1]).all()
    assert np.isfinite(record.later_kl[5, : len(SCALE_KEPT)]).all()
    assert np.isnan(record.later_kl[6]).all()


def test_the_picture_of_an_attempt_is_that_of_the_generation_that_goes_on_by_it(
    bench: tuple[Session, TorchBackend],
) -> None:
    expected = bench[0](PROMPT, generator=3, dense=True).images[0].pixels
    for scale in scales(bench):
        if scale.scale == 5:
            dense = scale.attempt((scale.tokens,) * LAYERS).picture()
            half = scale.attempt((scale.tokens // 2,) * LAYERS).picture()
    assert dense.shape == half.shape == expected.shape
    # One bit that is drawn on the edge may differ between the two graphs.
    assert np.mean(np.square(dense - expected)) < 0.01 * np.mean(np.square(half - expected))
