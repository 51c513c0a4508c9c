"""Scenes, captions and the vocabulary of nano."""

import hashlib
import itertools
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toprovar.models.nano import attributes
from toprovar.models.nano.captions import (
    CATEGORIES,
    BackgroundRequirement,
    ObjectRequirement,
    Requirements,
    caption,
)
from toprovar.models.nano.requirements_sampler import sample_requirements
from toprovar.models.nano.scenes import sample_captioned_scene
from toprovar.models.nano.vocabulary import MAX_WORDS, PADDING, UNKNOWN, WORDS, encode


@given(seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_objects_stay_inside_and_apart(seed: int) -> None:
    scene = sample_captioned_scene(np.random.default_rng(seed)).scene
    for index, one in enumerate(scene.objects):
        low = attributes.MARGIN + one.radius - 1e-6
        assert low <= min(one.x, one.y)
        assert max(one.x, one.y) <= attributes.CANVAS - low
        for other in scene.objects[:index]:
            gap = max(abs(one.x - other.x), abs(one.y - other.y)) - one.radius - other.radius
            assert gap >= 14 - 1e-6


@given(seed=st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_scene_shows_what_the_caption_asks_for(seed: int) -> None:
    one = sample_captioned_scene(np.random.default_rng(seed))
    asked, scene = one.requirements, one.scene
    wanted = [phrase for phrase in asked.objects for _ in range(phrase.count)]
    assert len(wanted) == len(scene.objects)
    for phrase, shown in zip(wanted, scene.objects, strict=True):
        assert shown.shape == phrase.shape
        assert phrase.colour in (None, shown.colour)
        assert shown.texture == (phrase.texture or "solid")
        if phrase.size is not None:
            low, high = attributes.SIZE_RADII[phrase.size]
            assert low <= shown.radius <= high
        region = (phrase.region or "").split()
        assert "left" not in region or shown.x < 0.37 * attributes.CANVAS
        assert "right" not in region or shown.x > 0.63 * attributes.CANVAS
        assert "top" not in region or shown.y < 0.37 * attributes.CANVAS
        assert "bottom" not in region or shown.y > 0.63 * attributes.CANVAS
        if "center" in region:
            assert max(abs(shown.x - 128), abs(shown.y - 128)) < 14
    if asked.background is not None:
        assert scene.background.colour == asked.background.colour
        assert scene.background.texture == (asked.background.texture or "plain")
    if asked.relation is not None:
        first, second = scene.objects
        right, down = second.x - first.x, second.y - first.y
        offsets = {"left of": right, "right of": -right, "above": down, "below": -down}
        along = offsets[asked.relation]
        across = down if asked.relation in ("left of", "right of") else right
        assert along > 0
        assert abs(across) <= 0.61 * along


def test_of_a_pair_without_a_relation_the_object_named_first_is_on_the_left() -> None:
    rng = np.random.default_rng(2)
    for _ in range(1000):
        drawn = sample_captioned_scene(rng, category="two objects")
        first, second = drawn.scene.objects
        assert first.x + first.radius < second.x - second.radius, drawn.text


def test_an_object_without_a_place_is_mostly_near_the_centre() -> None:
    rng = np.random.default_rng(2)
    drawn = [sample_captioned_scene(rng, category="single object").scene.objects[0] for _ in range(1000)]
    places = np.array([(one.x, one.y) for one in drawn])
    np.testing.assert_allclose(places.mean(0), attributes.CANVAS / 2, atol=3)
    assert (places.std(0) > 15).all()
    assert (places.std(0) < 26).all()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_several_objects_keep_apart_and_have_their_own_places(count: int) -> None:
    rng = np.random.default_rng(3)
    drawn = [sample_captioned_scene(rng, category="counting").scene.objects for _ in range(2000)]
    places = np.array([[(one.x, one.y) for one in objects] for objects in drawn if len(objects) == count])
    assert (places.std(0) < 30).all()
    for objects in drawn:
        for first, second in itertools.combinations(objects, 2):
            apart = max(abs(first.x - second.x), abs(first.y - second.y)) - first.radius - second.radius
            assert apart >= 13.9


def test_small_objects_are_solid_and_rings_are_not_outlined() -> None:
    rng = np.random.default_rng(1)
    for _ in range(2000):
        for one in sample_captioned_scene(rng).scene.objects:
            assert one.texture == "solid" or one.radius > attributes.SIZE_RADII["small"][1]
            assert (one.shape, one.texture) != ("ring", "outlined")


def test_same_seed_gives_the_same_scenes() -> None:
    def draw(seed: int) -> list[object]:
        rng = np.random.default_rng(seed)
        return [sample_captioned_scene(rng) for _ in range(50)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_excluded_captions_never_appear() -> None:
    rng = np.random.default_rng(5)
    common = {text for text, _ in Counter(sample_captioned_scene(rng).text for _ in range(3000)).most_common(50)}
    rng = np.random.default_rng(5)
    texts = {sample_captioned_scene(rng, frozenset(common)).text for _ in range(3000)}
    assert not texts & common


def test_training_covers_every_category_and_word() -> None:
    rng = np.random.default_rng(6)
    drawn = [sample_captioned_scene(rng) for _ in range(6000)]
    categories = Counter(one.requirements.category for one in drawn)
    assert all(categories[category] >= 250 for category in CATEGORIES)
    words = Counter(word for one in drawn for word in one.text.split())
    assert set(words) == set(WORDS[2:])
    assert min(words.values()) >= 20
    assert len({one.text for one in drawn}) > 3000


def test_captions_fit_the_vocabulary() -> None:
    rng = np.random.default_rng(7)
    longest = 0
    for _ in range(5000):
        text = sample_captioned_scene(rng, category="composition").text
        assert UNKNOWN not in encode(text)
        longest = max(longest, len(text.split()))
    assert 15 <= longest <= MAX_WORDS


@pytest.mark.parametrize(
    ("requirements", "text"),
    [
        (Requirements("", (ObjectRequirement("circle", "red"),)), "a red circle"),
        (
            Requirements("", (ObjectRequirement("star", "blue", "striped", "large"),)),
            "a large striped blue star",
        ),
        (
            Requirements("", (ObjectRequirement("cross", "orange", count=3),)),
            "three orange crosses",
        ),
        (
            Requirements(
                "",
                (ObjectRequirement("ring"), ObjectRequirement("square", "cyan", "outlined")),
                "left of",
            ),
            "a ring to the left of an outlined cyan square",
        ),
        (
            Requirements(
                "",
                (ObjectRequirement("diamond", region="top left"),),
                None,
                BackgroundRequirement("white", "checkered"),
            ),
            "a diamond in the top left on a checkered white background",
        ),
        (
            Requirements("", (ObjectRequirement("diamond", "orange", region="top"),)),
            "an orange diamond at the top",
        ),
    ],
    ids=["colour", "adjectives", "count", "relation", "region and background", "article"],
)
def test_caption_in_words(requirements: Requirements, text: str) -> None:
    assert caption(requirements) == text


def test_different_requirements_have_different_captions() -> None:
    rng = np.random.default_rng(8)
    by_text: dict[str, set[object]] = {}
    for _ in range(5000):
        asked = sample_requirements(rng)
        meaning = (asked.objects, asked.relation, asked.background)
        by_text.setdefault(caption(asked), set()).add(meaning)
    assert all(len(meanings) == 1 for meanings in by_text.values())


def test_encode_pads_and_marks_unknown_words() -> None:
    indices = encode("A red dog.", length=5)
    assert [WORDS[index] for index in indices[:2]] == ["a", "red"]
    assert indices[2:] == [UNKNOWN, PADDING, PADDING]
    assert len(WORDS) == len(set(WORDS)) <= 100


def test_words_keep_their_order() -> None:
    # nano's text encoder was trained with these indices; new words go to the end.
    digest = hashlib.sha256(" ".join(WORDS[:56]).encode()).hexdigest()
    assert digest == "b7b3b1fae489603253f203ed4a62d3b1125fe03ea130b706697015b7bec50812"


def test_encode_refuses_long_captions() -> None:
    with pytest.raises(ValueError, match="25 words, at most 24"):
        encode("a " * 25)


def test_unknown_category_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="counting, colours"):
        sample_requirements(np.random.default_rng(0), "colors")


def test_sampling_is_fast() -> None:
    rng = np.random.default_rng(9)
    best = float("inf")
    # The fastest of several short runs: other processes share the cores.
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(200):
            sample_captioned_scene(rng)
        best = min(best, (time.perf_counter() - start) / 200)
    assert best < 200e-6
