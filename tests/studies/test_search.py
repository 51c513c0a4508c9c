from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from toprovar.stats import LayerSensitivity, ScaleSensitivity
from toprovar.studies.laboratory import Laboratory, Outcome, Run
from toprovar.studies.search import Tried, predicted, rows_of, words


@pytest.fixture
def tried(laboratory: Laboratory) -> Tried:
    plan = laboratory.plan(laboratory.policy("toprovar", scale=False), 0.5)
    outcomes = tuple(Outcome(True, "texture", 20.0 + index, 1.0, 0.0, 0.5, 0) for index in range(4))
    alone = np.zeros((4, 7))
    alone[:, 6] = 0.2
    return Tried("search", plan, [0.0] * 6 + [0.1], alone, 1.5 * alone, Run("search", outcomes))


def test_prediction_is_linear_between_what_was_measured(laboratory: Laboratory) -> None:
    stats = laboratory.stats()
    curve = (LayerSensitivity(0.5, 0.2, 0.0, None), LayerSensitivity(0.0, 1.0, 0.0, None))
    whole = (ScaleSensitivity(0.5, 0.4, 0.0, None, 0.04), ScaleSensitivity(0.0, 2.0, 0.0, None, 0.1))
    last = stats.scales[-1]
    layers = (dataclasses.replace(last.layers[0], sensitivity=curve), last.layers[1])
    last = dataclasses.replace(last, layers=layers, sensitivity=whole)
    stats = dataclasses.replace(stats, scales=(*stats.scales[:-1], last))
    plan = laboratory.subject.dense_plan()
    tokens = plan.scales[-1].tokens
    # One layer alone is weighed by what a nat costs the picture, 0.04 for 0.4; all alike are read off.
    alone = ((1.0, 0.0), (0.75, 0.01), (0.5, 0.02), (0.25, 0.06), (0.0, 0.1))
    alike = ((0.75, 0.02), (0.5, 0.04), (0.25, 0.07), (0.0, 0.1))
    for share, damage, together in [*((*one, False) for one in alone), *((*one, True) for one in alike)]:
        kept = (int(share * tokens), int(share * tokens) if together else tokens)
        ranked = dataclasses.replace(plan.ranking, selector="random")
        scales = (*plan.scales[:-1], dataclasses.replace(plan.scales[-1], kept=kept))
        own = dataclasses.replace(plan, scales=scales, ranking=ranked)
        assert predicted(stats, own) == pytest.approx([0] * 6 + [damage])


def test_rows_compare_measured_with_predicted(tried: Tried) -> None:
    rows = rows_of([tried])
    last, whole = rows[-2], rows[-1]
    assert (last["scale"], whole["scale"]) == ("7", "all")
    assert last["alone over predicted"] == pytest.approx(2)
    assert last["in one go over predicted"] == pytest.approx(3)
    assert whole["PSNR to dense, dB"] == 21.5


def test_words(tried: Tried) -> None:
    outcomes = tuple(dataclasses.replace(one, psnr=one.psnr - 1) for one in tried.run.outcomes)
    greedy = dataclasses.replace(
        tried, name="greedy", expected=[0.0] * 6 + [0.15], running=2 * tried.running, run=Run("greedy", outcomes)
    )
    said = words([tried, greedy])
    assert "Yes, the search is better than greedy: by 1.000 [1.000, 1.000] dB over 4 prompts" in said
    assert "predicted to lose 50.0% more, and its measured loss is +0.3 [+0.3, +0.3] against the search's" in said
    assert "formula: 40% of the FLOPs is out of its reach" in said
    assert "lose 2.00 times what was predicted, and in one go 1.50 times what they lose alone" in said
    swapped = [dataclasses.replace(tried, name="greedy"), dataclasses.replace(greedy, name="search")]
    assert "No, the search is worse than greedy" in words(swapped)
    assert words([greedy]).startswith("No answer")
