"""Calibration statistics: every table fits schedule, layers and heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from toprovar.errors import ArtefactError
from toprovar.stats import CalibrationStats, PromptStats

replace = dataclasses.replace


def _with_layer(stats: CalibrationStats, **changes: object) -> dict[str, object]:
    scale = stats.scales[1]
    layer = replace(scale.layers[2], **changes)
    return {"scales": (stats.scales[0], replace(scale, layers=(*scale.layers[:2], layer)), stats.scales[2])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stats: {"schedule": ()}, "schedule: expected a scale at least, got a list of 0"),
        (
            lambda stats: {"scales": stats.scales[:2]},
            "scales: expected one entry for each scale (3), got a list of 2",
        ),
        (
            lambda stats: {"schedule": ((1, 1), (2, 2), (4, 4))},
            "scales[2].height: expected 4, as in the schedule, got 3",
        ),
        (
            lambda stats: {"scales": (*stats.scales[:2], replace(stats.scales[2], keys=12))},
            "scales[2].keys: expected 17, the tokens so far, got 12",
        ),
        (
            lambda stats: {"layers": 2},
            "scales[0].layers: expected one entry for each layer (2), got a list of 3",
        ),
        (
            lambda stats: {"heads": 3},
            "scales[0].layers[0].entropy_mean: expected one entry for each head (3), got a list of 2",
        ),
        (
            lambda stats: _with_layer(stats, entropy_deviation=(0.1,)),
            "scales[1].layers[2].entropy_deviation: expected one entry for each head (2), got a list of 1",
        ),
        (
            lambda stats: _with_layer(stats, histogram=(1, 2)),
            "scales[1].layers[2].histogram: expected one entry for each bin of the first histogram (3), "
            "got a list of 2",
        ),
        (
            lambda stats: _with_layer(stats, entropy_mean=(0.5, 1.5)),
            "entropy_mean[1]: expected a number from 0 to 1, got 1.5",
        ),
        (
            lambda stats: {"prompts": (PromptStats("a", (0.5,)),)},
            "prompts[0].low_entropy_ratio: expected one entry for each scale (3), got a list of 1",
        ),
        (
            lambda stats: {"seconds": {"forward": -1.0}},
            "seconds.forward: expected a number of at least 0, got -1.0",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    stats: CalibrationStats, change: Callable[[CalibrationStats], dict[str, object]], message: str
) -> None:
    with pytest.raises(ArtefactError) as caught:
        replace(stats, **change(stats))
    assert str(caught.value) == message
