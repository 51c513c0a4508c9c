"""ShapeEval accepts rendered scenes that fulfil their captions and refuses those that do not."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from toprovar.evaluation.shape_eval.checker import check
from toprovar.models.nano import attributes
from toprovar.models.nano.captions import CATEGORIES, Requirements
from toprovar.models.nano.renderer import pack, render
from toprovar.models.nano.requirements_sampler import pick
from toprovar.models.nano.scenes import (
    CaptionedScene,
    Scene,
    SceneObject,
    sample_captioned_scene,
    sample_scene,
)

BATCH = 16
DECIBELS = 28.0


def images_of(scenes: Sequence[Scene]) -> Iterator[np.ndarray]:
    for start in range(0, len(scenes), BATCH):
        images = render(pack(scenes[start : start + BATCH]))
        levels = (images * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        yield from levels.permute(0, 2, 3, 1).numpy()


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blurs with sigma 0.7 and adds noise until the image is at 28 dB, or 10 dB below the blur."""
    blurred = ndimage.gaussian_filter(image.astype(np.float64), (0.7, 0.7, 0))
    lost = ((blurred - image) ** 2).mean()
    wanted = 255**2 / 10 ** (DECIBELS / 10)
    noise = rng.normal(0, np.sqrt(max(wanted - lost, 0.1 * wanted)), image.shape)
    return (blurred + noise).round().clip(0, 255).astype(np.uint8)


def true_scenes(seed: int, per_category: int) -> list[CaptionedScene]:
    rng = np.random.default_rng(seed)
    categories = (*CATEGORIES, "composition")
    return [sample_captioned_scene(rng, category=category) for category in categories for _ in range(per_category)]


def values_of(one: CaptionedScene) -> set[str]:
    """The category and every attribute that the caption names."""
    values = {one.requirements.category, one.requirements.relation}
    for wanted in one.requirements.objects:
        values |= {wanted.shape, wanted.colour, wanted.texture, wanted.size, wanted.region}
        values.add(f"count {wanted.count}")
    background = one.requirements.background
    if background is not None:
        values |= {f"{background.colour} background", f"{background.texture} background"}
    return values - {None, "None background"}


def assert_accepted(
    cases: Sequence[CaptionedScene],
    accepted: Sequence[bool],
    overall: float,
    each: float,
    smallest: int = 10,
) -> None:
    total, passed = Counter(), Counter()
    for one, ok in zip(cases, accepted, strict=True):
        total.update(values_of(one))
        passed.update(values_of(one) if ok else ())
    weak = {
        value: f"{passed[value]}/{count}"
        for value, count in total.items()
        if count >= smallest and passed[value] < each * count
    }
    assert not weak
    assert np.mean(accepted) >= overall


@pytest.mark.slow
def test_accepts_true_scenes() -> None:
    cases = true_scenes(seed=11, per_category=90)
    images = images_of([one.scene for one in cases])
    accepted = [check(one.requirements, image).ok for one, image in zip(cases, images, strict=True)]
    assert len(accepted) >= 700
    assert_accepted(cases, accepted, overall=0.99, each=0.95)


@pytest.mark.slow
def test_accepts_true_scenes_after_blur_and_noise() -> None:
    cases = true_scenes(seed=12, per_category=20)
    rng = np.random.default_rng(13)
    images = images_of([one.scene for one in cases])
    accepted = [check(one.requirements, degrade(image, rng)).ok for one, image in zip(cases, images, strict=True)]
    assert_accepted(cases, accepted, overall=0.95, each=0.85)


def test_accepts_true_scenes_with_a_colour_cast() -> None:
    cases = true_scenes(seed=16, per_category=4)
    cast, gain = np.array([12.0, -10.0, 6.0]), np.array([1.05, 0.97, 0.94])
    for one, image in zip(cases, images_of([one.scene for one in cases]), strict=True):
        tinted = (image * gain + cast).round().clip(0, 255).astype(np.uint8)
        assert check(one.requirements, tinted).failures == ()


def other(rng: np.random.Generator, values: Sequence[str], *taken: str | None) -> str:
    return pick(rng, [value for value in values if value not in taken])


def wrong_object(rng: np.random.Generator, asked: Requirements, attribute: str) -> Requirements | None:
    """Changes an attribute of the first noun phrase, if the caption names it."""
    wanted = asked.objects[0]
    value = getattr(wanted, attribute)
    textured = wanted.texture not in (None, "solid")
    if value is None:
        return None
    match attribute:
        case "shape":
            hollow = wanted.texture == "outlined"
            new = other(rng, attributes.SHAPES, value, "ring" if hollow else None)
        case "colour":
            new = other(rng, attributes.COLOURS, value)
        case "texture":
            flat = "outlined" if wanted.shape == "ring" else None
            new = other(rng, attributes.TEXTURES, value, flat)
        case "size":
            new = other(rng, attributes.SIZES, value, "small" if textured else None)
            if len(asked.objects) == 2 or wanted.count > 1:
                new = "small" if value == "medium" and not textured else "medium"
                if new == value:
                    return None
        case "region":
            vertical = [side for side in ("top", "bottom") if side not in value.split()]
            sideways = [side for side in ("left", "right") if side not in value.split()]
            new = pick(rng, vertical if set(value.split()) & {"top", "bottom"} else sideways)
        case _:
            raise AssertionError(attribute)
    changed = replace(wanted, **{attribute: new})
    if attribute == "texture" and new not in ("solid",) and changed.size == "small":
        changed = replace(changed, size=None)
    return replace(asked, objects=(changed, *asked.objects[1:]))


def wrong_scene(rng: np.random.Generator, asked: Requirements, change: str) -> Scene | None:
    """A scene that breaks the requirements in one point, or None where the point is not named."""
    first = asked.objects[0]
    match change:
        case "count":
            if first.count == 1:
                return None
            counts = [count for count in (2, 3, 4) if count != first.count]
            altered = replace(asked, objects=(replace(first, count=pick(rng, counts)),))
        case "relation":
            if asked.relation is None:
                return None
            altered = replace(asked, relation=other(rng, attributes.RELATIONS, asked.relation))
        case "swapped colours":
            if len(asked.objects) == 1 or first.colour is None:
                return None
            second = asked.objects[1]
            if first.shape == second.shape:
                return None
            swapped = (
                replace(first, colour=second.colour),
                replace(second, colour=first.colour),
            )
            altered = replace(asked, objects=swapped)
        case "missing object":
            scene = sample_scene(rng, asked)
            if len(scene.objects) == 1:
                return None
            kept = list(scene.objects)
            kept.pop(int(rng.random() * len(kept)))
            return replace(scene, objects=tuple(kept))
        case "odd one out":
            scene = sample_scene(rng, asked)
            if first.count == 1:
                return None
            last = scene.objects[-1]
            taken = ("ring", last.shape)
            odd = replace(last, shape=other(rng, attributes.SHAPES, *taken))
            return replace(scene, objects=(*scene.objects[:-1], odd))
        case "background":
            background = asked.background
            if background is None:
                return None
            levels = tuple(attributes.BACKGROUND_LEVELS)
            altered = replace(
                asked,
                background=replace(background, colour=other(rng, levels, background.colour)),
            )
        case "background texture":
            background = asked.background
            if background is None or background.texture is None:
                return None
            texture = other(rng, (*attributes.BACKGROUND_TEXTURES[1:], None), background.texture)
            altered = replace(asked, background=replace(background, texture=texture))
        case _:
            altered = wrong_object(rng, asked, change)
    return None if altered is None else sample_scene(rng, altered)


CHANGES = (
    "shape",
    "colour",
    "texture",
    "size",
    "region",
    "count",
    "relation",
    "swapped colours",
    "missing object",
    "odd one out",
    "background",
    "background texture",
)


@pytest.mark.slow
def test_refuses_wrong_scenes() -> None:
    rng = np.random.default_rng(14)
    per_change = 30
    cases: list[tuple[str, Requirements, Scene]] = []
    for change in CHANGES:
        count = 0
        while count < per_change:
            asked = sample_captioned_scene(rng).requirements
            scene = wrong_scene(rng, asked, change)
            if scene is not None:
                cases.append((change, asked, scene))
                count += 1
    refused: Counter[str] = Counter()
    for (change, asked, _), image in zip(cases, images_of([scene for _, _, scene in cases]), strict=True):
        refused[change] += not check(asked, image).ok
    weak = {change: refused[change] for change in CHANGES if refused[change] < 0.95 * per_change}
    assert not weak
    assert refused.total() >= 0.99 * len(cases)


@pytest.mark.parametrize(("extra_radius", "ok"), [(18.0, True), (32.0, False)], ids=["small", "medium"])
def test_extra_objects_are_tolerated_only_if_small(extra_radius: float, ok: bool) -> None:
    rng = np.random.default_rng(15)
    for category in ("single object", "colours"):
        one = sample_captioned_scene(rng, category=category)
        first = replace(one.scene.objects[0], x=180.0, y=180.0)
        extra = SceneObject("star", "blue", "solid", extra_radius, 50.0, 50.0)
        scene = replace(one.scene, objects=(first, extra))
        assert check(one.requirements, next(images_of([scene]))).ok is ok
