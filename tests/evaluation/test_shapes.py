"""ShapeEval's prompts, rules and score."""

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from toprovar.evaluation.shape_eval.checker import check_detection
from toprovar.evaluation.shape_eval.detections import (
    DetectedBackground,
    DetectedObject,
    Detection,
)
from toprovar.evaluation.suites.shapes import (
    CALIBRATION_PROMPTS,
    CATEGORIES,
    HELD_OUT,
    PROMPTS,
    CheckResult,
    check,
    score,
    summarise,
)
from toprovar.models.nano.captions import (
    BackgroundRequirement,
    ObjectRequirement,
    Requirements,
    caption,
)

RED_CIRCLE = DetectedObject("circle", "red", "solid", "medium", 30.0, 60.0, 128.0, 0.95)
BLUE_STAR = DetectedObject("star", "blue", "striped", "medium", 30.0, 190.0, 128.0, 0.95)
GRAY = DetectedBackground("gray", "plain")


def verdict(asked: Requirements, *found: DetectedObject) -> CheckResult:
    return check_detection(asked, Detection(found, GRAY))


def test_prompts_are_the_ones_that_training_left_out() -> None:
    # nano's checkpoint was trained without these texts; another set would not be held out.
    text = "\n".join(prompt.text for prompt in PROMPTS + CALIBRATION_PROMPTS)
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "d7ee5fddea80571240c6e602104c58e6a714e6e9a3ca5bc876c24413360b6718"
    )


def test_prompts_cover_the_categories() -> None:
    counts = Counter(prompt.requirements.category for prompt in PROMPTS)
    assert counts == dict.fromkeys(CATEGORIES, 24)
    assert len(HELD_OUT) == 168
    assert {prompt.text for prompt in PROMPTS} == HELD_OUT
    assert len(CALIBRATION_PROMPTS) == 64
    assert not HELD_OUT & {prompt.text for prompt in CALIBRATION_PROMPTS}
    assert all(caption(prompt.requirements) == prompt.text for prompt in PROMPTS)


def test_open_attributes_are_free_and_named_ones_are_not() -> None:
    assert verdict(Requirements("colours", (ObjectRequirement("circle"),)), RED_CIRCLE).ok
    for wrong in (
        {"shape": "star"},
        {"colour": "blue"},
        {"texture": "striped"},
        {"size": "large"},
        {"region": "right"},
    ):
        wanted = replace(ObjectRequirement("circle", "red"), **wrong)
        result = verdict(Requirements("colours", (wanted,)), RED_CIRCLE)
        assert not result.ok
        assert "red circle" in result.failures[0]


def test_failure_says_what_was_asked_and_found() -> None:
    asked = Requirements("colours", (ObjectRequirement("circle", "green"),))
    assert verdict(asked, RED_CIRCLE).failures == (
        "a green circle: found 0; closest is a medium solid red circle at (60, 128): red instead of green",
    )
    assert verdict(asked).failures == ("a green circle: the image shows no object",)


def test_two_phrases_need_two_objects() -> None:
    one_phrase = ObjectRequirement("circle")
    asked = Requirements("two objects", (one_phrase, ObjectRequirement("circle", "red")))
    assert not verdict(asked, RED_CIRCLE).ok
    assert not verdict(asked, RED_CIRCLE, BLUE_STAR).ok
    assert verdict(asked, RED_CIRCLE, replace(BLUE_STAR, shape="circle")).ok


@pytest.mark.parametrize(
    ("relation", "x", "y"),
    [("left of", 190, 100), ("right of", 10, 150), ("above", 80, 200), ("below", 40, 40)],
)
def test_relations(relation: str, x: float, y: float) -> None:
    pair = (ObjectRequirement("circle"), ObjectRequirement("star"))
    other = replace(BLUE_STAR, x=float(x), y=float(y))
    for asked in ("left of", "right of", "above", "below"):
        result = verdict(Requirements("position", pair, asked), RED_CIRCLE, other)
        assert result.ok is (asked == relation)


def test_relation_needs_a_margin() -> None:
    pair = (ObjectRequirement("circle"), ObjectRequirement("star"))
    near = replace(BLUE_STAR, x=70.0, y=128.0)
    assert not verdict(Requirements("position", pair, "left of"), RED_CIRCLE, near).ok


@pytest.mark.parametrize(
    ("x", "y", "regions"),
    [
        (60, 60, {"top left", "top", "left"}),
        (200, 128, {"right"}),
        (128, 128, {"center"}),
        (128, 200, {"bottom"}),
        (200, 200, {"bottom right", "bottom", "right"}),
    ],
)
def test_regions(x: float, y: float, regions: set[str]) -> None:
    found = replace(RED_CIRCLE, x=float(x), y=float(y))
    names = ("top left", "bottom right", "top", "bottom", "left", "right", "center")
    accepted = {
        region
        for region in names
        if verdict(Requirements("position", (ObjectRequirement("circle", region=region),)), found).ok
    }
    assert accepted == regions


def test_counting_is_exact() -> None:
    asked = Requirements("counting", (ObjectRequirement("circle", "red", count=2),))
    second = replace(RED_CIRCLE, x=150.0)
    speck = replace(BLUE_STAR, size="small", radius=16.0)
    assert verdict(asked, RED_CIRCLE, second).ok
    assert not verdict(asked, RED_CIRCLE).ok
    assert not verdict(asked, RED_CIRCLE, second, replace(RED_CIRCLE, x=220.0)).ok
    assert not verdict(asked, RED_CIRCLE, second, speck).ok


def test_background_colour_and_texture() -> None:
    for wanted, ok in (
        (BackgroundRequirement("gray"), True),
        (BackgroundRequirement("white"), False),
        (BackgroundRequirement("gray", "dotted"), False),
    ):
        asked = Requirements("colours", (ObjectRequirement("circle"),), None, wanted)
        assert verdict(asked, RED_CIRCLE).ok is ok


def test_score_is_the_mean_over_categories() -> None:
    prompts = PROMPTS[:24] + PROMPTS[24:26]
    results = [CheckResult(index < 12 or index == 24, ()) for index in range(26)]
    summary = summarise(prompts, results)
    assert [(one.passed, one.total) for one in summary.categories] == [(12, 24), (1, 2)]
    assert summary.mean == pytest.approx(0.5)


def test_score_checks_the_images() -> None:
    blank = np.full((256, 256, 3), 128, np.uint8)
    summary = score(PROMPTS[:2], [blank, blank])
    assert summary.mean == 0
    assert "no object" in summary.results[0].failures[0]
    for images in ([blank], [blank] * 3):
        with pytest.raises(ValueError, match="2 prompts need as many images"):
            score(PROMPTS[:2], images)


def test_noise_alone_shows_nothing_asked_for() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2):
        noise = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
        assert not any(check(prompt.requirements, noise).ok for prompt in PROMPTS[::24])


@pytest.mark.parametrize(
    "image",
    [np.zeros((128, 128, 3), np.uint8), np.zeros((256, 256, 3), np.float32)],
    ids=["size", "type"],
)
def test_wrong_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        check(PROMPTS[0].requirements, image)


def test_runs_without_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy\n"
        "from toprovar.evaluation.suites.shapes import PROMPTS, check\n"
        "check(PROMPTS[0].requirements, numpy.zeros((256, 256, 3), numpy.uint8))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
