"""Calibration statistics: every table fits schedule, layers and heads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from toprovar.errors import ArtefactError
from toprovar.stats import CalibrationStats, LayerSensitivity, PromptStats, ScaleStats

replace = dataclasses.replace


def _with_layer(stats: CalibrationStats, **changes: object) -> dict[str, object]:
    scale = stats.scales[1]
    layer = replace(scale.layers[2], **changes)
    return {"scales": (stats.scales[0], replace(scale, layers=(*scale.layers[:2], layer)), stats.scales[2])}


def _sensitivity(*kept: float, later_kl: float | None = None) -> tuple[LayerSensitivity, ...]:
    return tuple(LayerSensitivity(share, 0.1, 0.2, later_kl if index else None) for index, share in enumerate(kept))


def _with_later_kl(scale: ScaleStats) -> ScaleStats:
    first, second, third = scale.layers
    return replace(scale, layers=(first, replace(second, sensitivity=_sensitivity(0.5, 0.25, later_kl=0.5)), third))


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
            lambda stats: _with_layer(stats, histogram=((1, 2, 3), (1, 2))),
            "scales[1].layers[2].histogram[1]: expected one entry for each bin of the first histogram (3), "
            "got a list of 2",
        ),
        (
            lambda stats: _with_layer(stats, histogram=((1, 2, 3),)),
            "scales[1].layers[2].histogram: expected one entry for each head (2), got a list of 1",
        ),
        (
            lambda stats: _with_layer(stats, histogram=((1, 2, 3), (1, -2, 3))),
            "histogram[1][1]: expected an integer of at least 0, got -2",
        ),
        (
            lambda stats: _with_layer(stats, principal_component_deviation=-0.5),
            "principal_component_deviation: expected a number of at least 0, got -0.5",
        ),
        (
            lambda stats: _with_layer(stats, sensitivity=(LayerSensitivity(1, 0, 0, None),)),
            "sensitivity[0].kept: expected a share below 1, all tokens, got 1.0",
        ),
        (
            lambda stats: _with_layer(stats, sensitivity=_sensitivity(0.5, 0.25, 0.25)),
            "sensitivity[2].kept: expected a share below 0.25, the one before, got 0.25",
        ),
        (
            lambda stats: _with_layer(stats, sensitivity=_sensitivity(0.5, 0.75)),
            "sensitivity[1].kept: expected a share below 0.5, the one before, got 0.75",
        ),
        (
            lambda stats: {"scales": (*stats.scales[:2], _with_later_kl(stats.scales[2]))},
            "scales[2].layers[1].sensitivity[1].later_kl: expected null, as no scale is later, got 0.5",
        ),
        (
            lambda stats: _with_layer(stats, entropy_mean=(0.5, 1.5)),
            "entropy_mean[1]: expected a number from 0 to 1, got 1.5",
        ),
        (
            lambda stats: {"prompts": (PromptStats("a", 0, (0.5,) * 3, (0.5,), (0.5,) * 3),)},
            "prompts[0].low_entropy_ratio: expected one entry for each scale (3), got a list of 1",
        ),
        (
            lambda stats: {"prompts": (*stats.prompts, PromptStats("a", 0, (0.5,) * 4, (0.5,) * 3, (0.5,) * 3))},
            "prompts[1].entropy_mean: expected one entry for each scale (3), got a list of 4",
        ),
        (
            lambda stats: {"prompts": (replace(stats.prompts[0], seed=-1),)},
            "seed: expected an integer of at least 0, got -1",
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


def test_sensitivities_of_all_shares_and_at_all_scales_but_the_last_are_welcome(stats: CalibrationStats) -> None:
    changed = replace(stats, **_with_layer(stats, sensitivity=_sensitivity(0.999, 0.5, 0, later_kl=0.5)))
    assert CalibrationStats.from_json(changed.to_json()) == changed


@pytest.mark.parametrize("kept", ["1.0", "1.5", "-0.1"])
def test_a_bad_edit_is_named_by_its_path(kept: str, stats: CalibrationStats) -> None:
    text = stats.to_json().replace('"kept": 0.5', f'"kept": {kept}', 1)
    with pytest.raises(ArtefactError, match=r"^scales\[0\]\.layers\[2\]\.sensitivity\[0\]\.kept: expected") as caught:
        CalibrationStats.from_json(text)
    assert caught.value.field == "scales[0].layers[2].sensitivity[0].kept"


def test_statistics_of_an_earlier_version_say_that_they_are_old(stats: CalibrationStats) -> None:
    text = stats.to_json().replace('"schema_version": 3', '"schema_version": 1')
    with pytest.raises(ArtefactError, match="it is from another version of ToProVAR: make it anew"):
        CalibrationStats.from_json(text)
