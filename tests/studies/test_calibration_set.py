from __future__ import annotations

import dataclasses

import pytest

from toprovar.evaluation.suites.shapes import CALIBRATION_PROMPTS
from toprovar.studies.calibration_set import (
    kept_moves,
    parted,
    ratio_agreement,
    sensitivity_agreement,
    words,
)
from toprovar.studies.laboratory import Laboratory


def test_halves_share_no_category() -> None:
    texts = [prompt.text for prompt in CALIBRATION_PROMPTS]
    (_, first), (_, second) = parted("shapes", texts)
    category = {prompt.text: prompt.requirements.category for prompt in CALIBRATION_PROMPTS}
    assert sorted((*first, *second)) == sorted(texts)
    assert not {category[text] for text in first} & {category[text] for text in second}
    assert min(len(first), len(second)) > len(texts) / 3


def test_prompts_of_no_suite_are_parted_by_their_order() -> None:
    assert parted("shapes", ["a", "b", "c"]) == [("first half", ("a",)), ("second half", ("b", "c"))]
    assert parted("shapes", ["a"]) == [("second half", ("a",))]


def test_kept_moves_looks_at_pruned_scales_only(laboratory: Laboratory) -> None:
    plan = laboratory.plan(laboratory.policy("random"), 0.9)
    assert kept_moves(plan, plan) == 0
    last = plan.scales[-1]
    half, none = (
        dataclasses.replace(
            plan,
            scales=tuple(
                dataclasses.replace(one, kept=((kept if one is last else one.tokens),) * plan.layers)
                for one in plan.scales
            ),
        )
        for kept in (last.tokens // 2, 0)
    )
    assert kept_moves(half, none) == pytest.approx(0.5)


def test_agreement_with_itself_and_with_the_reverse(laboratory: Laboratory) -> None:
    stats = laboratory.stats("cached")
    assert ratio_agreement(stats, stats) == pytest.approx(1)
    assert sensitivity_agreement(stats, stats) == pytest.approx(1)
    assert sensitivity_agreement(laboratory.stats(), stats) is None
    reverse = dataclasses.replace(
        stats,
        scales=tuple(
            dataclasses.replace(
                scale,
                layers=tuple(
                    dataclasses.replace(one, principal_component_ratio=1 - one.principal_component_ratio)
                    for one in scale.layers
                ),
            )
            for scale in stats.scales
        ),
    )
    assert ratio_agreement(stats, reverse) == pytest.approx(-1)


def test_a_subset_keeps_what_all_prompts_say_of_guidance(laboratory: Laboratory) -> None:
    whole = laboratory.stats("cached")
    few = dataclasses.replace(laboratory.table(), stats=whole).subset([0])
    assert few.scales[-1].guidance == whole.scales[-1].guidance != ()
    assert few.scales[-1].layers[0].sensitivity == whole.scales[-1].layers[0].sensitivity != ()


def test_words() -> None:
    row = {
        "calibrated with": "another seed",
        "score against all": 0.01,
        "from": -0.05,
        "to": 0.07,
        "prompts": 24,
        "PSNR against all, dB": -0.5,
        "kept shares move": 0.1,
        "other depth": 0.25,
        "FLOPs": 0.4,
        "Spearman of R": 0.9,
        "Spearman of sensitivity": None,
    }
    said = words([{**row, "plan": "toprovar"}, {**row, "plan": "toprovar_search", "score against all": -0.1}])
    formula, search = said.split(" toprovar_search: ")
    assert formula.startswith(
        "toprovar: the score does not depend on it, as far as intervals that reach 0.070 can tell"
    )
    assert "PSNR by 0.50 dB" in formula
    assert "up to 25% of the images" in formula
    assert "sensitivities" not in formula
    assert search.startswith("the score depends on it; it moves by 0.100 at most (another seed: -0.1 [-0.05, 0.07], 24")
    assert "toprovar: no answer" in words([])
