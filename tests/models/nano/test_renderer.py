"""The renderer of nano's scenes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from toprovar.models.nano import attributes
from toprovar.models.nano.renderer import coverage, pack, render
from toprovar.models.nano.scenes import Background, Scene, SceneObject, sample_captioned_scene

PLAIN = Background("gray", "plain")
AREAS = {
    "circle": math.pi,
    "square": 4 * attributes.SQUARE_HALF**2,
    "triangle": 2 * attributes.TRIANGLE_HALF,
    "diamond": 2.0,
    "star": 10 * 0.5 * attributes.STAR_INNER * math.sin(math.pi / 5),
    "cross": 8 * attributes.CROSS_ARM * attributes.CROSS_WIDTH - 4 * attributes.CROSS_WIDTH**2,
    "ring": math.pi * (1 - attributes.RING_HOLE**2),
}


def scene_of(*objects: SceneObject, background: Background = PLAIN, seed: int = 0) -> Scene:
    return Scene(background, objects, seed)


def levels(scene: Scene) -> np.ndarray:
    """Grey levels 0 to 255, float [256, 256, 3]."""
    return (render(pack([scene]))[0].permute(1, 2, 0).numpy() + 1) * 127.5


@pytest.fixture(scope="module")
def random_scenes() -> list[Scene]:
    rng = np.random.default_rng(21)
    return [sample_captioned_scene(rng).scene for _ in range(12)]


@pytest.mark.parametrize("shape", attributes.SHAPES)
def test_area_and_centre(shape: str) -> None:
    one = SceneObject(shape, "red", "solid", 50.0, 101.3, 140.8)
    alpha = coverage(pack([scene_of(one)]))[0, 0].numpy()
    assert alpha.sum() == pytest.approx(AREAS[shape] * 50**2, rel=0.01)
    # Every shape mirrors left and right, so its mean x is its centre.
    mean_x = (alpha.sum(axis=0) * (np.arange(256) + 0.5)).sum() / alpha.sum()
    assert mean_x == pytest.approx(101.3, abs=0.05)
    rows = np.flatnonzero(alpha.max(axis=1) > 0.5)
    assert rows[0] >= 140.8 - 50.5
    assert rows[-1] <= 140.8 + 50.5


@pytest.mark.parametrize("shape", attributes.SHAPES)
def test_edges_are_about_a_pixel_wide(shape: str) -> None:
    alpha = coverage(pack([scene_of(SceneObject(shape, "red", "solid", 50.0, 128.2, 127.7))]))
    partial = ((alpha > 0.02) & (alpha < 0.98)).sum().item()
    perimeter = 2 * math.pi * 50
    assert 0.3 * perimeter < partial < 3 * perimeter


def test_colours_and_background_are_exact() -> None:
    for index, colour in enumerate(attributes.COLOURS):
        name = tuple(attributes.BACKGROUND_LEVELS)[index % 3]
        one = SceneObject("square", colour, "solid", 40.0, 100.0, 100.0)
        image = levels(scene_of(one, background=Background(name, "plain")))
        np.testing.assert_allclose(image[100, 100], attributes.COLOUR_RGB[colour], atol=0.01)
        np.testing.assert_allclose(image[200, 200], attributes.BACKGROUND_LEVELS[name], atol=0.01)


def inside(texture: str, seed: int = 0) -> np.ndarray:
    """Brightness relative to the colour, [96, 96], phase of the canvas at its corner."""
    one = SceneObject("square", "red", texture, 58.0, 128.0, 128.0)
    return levels(scene_of(one, seed=seed))[80:176, 80:176, 0] / attributes.COLOUR_RGB["red"][0]


def test_stripes_are_horizontal_with_period_eight() -> None:
    brightness = inside("striped")
    assert np.ptp(brightness, axis=1).max() < 1e-4
    column = [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    np.testing.assert_allclose(brightness[:8, 0], column, atol=1e-3)
    np.testing.assert_allclose(brightness[8:], brightness[:-8], atol=1e-4)


def test_checks_alternate_both_ways() -> None:
    brightness = inside("checkered")
    np.testing.assert_allclose(brightness[:4, 4:8], 0.5, atol=1e-3)
    np.testing.assert_allclose(brightness[4:8, :4], 0.5, atol=1e-3)
    np.testing.assert_allclose(brightness[4:, 4:], brightness[:-4, :-4], atol=1e-4)


def test_dots_are_round_and_periodic() -> None:
    brightness = inside("dotted")
    np.testing.assert_allclose(brightness, brightness.T, atol=1e-4)
    np.testing.assert_allclose(brightness[8:, 8:], brightness[:-8, :-8], atol=1e-4)
    share = (1 - brightness).mean() / (1 - attributes.DARK_FACTOR)
    assert share == pytest.approx(math.pi * attributes.DOT_RADIUS**2 / 64, rel=0.05)


def test_speckles_depend_on_the_seed_only() -> None:
    first = inside("speckled", seed=1)
    np.testing.assert_array_equal(first, inside("speckled", seed=1))
    second = inside("speckled", seed=2)
    assert set(np.round(np.unique(first), 3)) == {0.5, 1.0}
    assert (first < 0.75).mean() == pytest.approx(attributes.SPECKLE_SHARE, abs=0.06)
    correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
    assert abs(correlation) < 0.15
    shifted = np.corrcoef(first[:, 3:].ravel(), first[:, :-3].ravel())[0, 1]
    assert abs(shifted) < 0.15


def test_outline_is_hollow() -> None:
    one = SceneObject("square", "red", "outlined", 50.0, 128.0, 128.0)
    alpha = coverage(pack([scene_of(one)]))[0, 0].numpy()
    assert alpha[128, 128] == 0
    assert alpha[128].sum() == pytest.approx(2 * attributes.OUTLINE_WIDTH, abs=0.1)


@pytest.mark.parametrize("texture", attributes.BACKGROUND_TEXTURES)
@pytest.mark.parametrize("colour", attributes.BACKGROUND_LEVELS)
def test_backgrounds_are_neutral_and_low_in_contrast(colour: str, texture: str) -> None:
    corner = SceneObject("circle", "red", "solid", 16.0, 22.0, 22.0)
    image = levels(scene_of(corner, background=Background(colour, texture)))[64:, 64:]
    assert np.ptp(image, axis=-1).max() < 0.01
    contrast = 0 if texture == "plain" else attributes.BACKGROUND_CONTRAST
    assert np.ptp(image) == pytest.approx(contrast, abs=0.01)
    assert 0 <= image.min() <= image.max() <= 255


def test_a_scene_looks_the_same_in_every_batch(random_scenes: list[Scene]) -> None:
    images = render(pack(random_scenes))
    assert images.shape == (12, 3, 256, 256)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    for index in (0, 5, 11):
        torch.testing.assert_close(render(pack([random_scenes[index]]))[0], images[index], rtol=0, atol=1e-5)


def test_coverage_never_overlaps(random_scenes: list[Scene]) -> None:
    alpha = coverage(pack(random_scenes))
    assert alpha.sum(dim=1).max() <= 1
    counts = (alpha.sum(dim=(2, 3)) > 0).sum(dim=1)
    assert counts.tolist() == [len(scene.objects) for scene in random_scenes]


def test_pack_refuses_too_many_objects() -> None:
    one = SceneObject("circle", "red", "solid", 16.0, 30.0, 30.0)
    scene = scene_of(*(replace(one, x=30.0 + 45 * index) for index in range(5)))
    with pytest.raises(ValueError, match="5 objects, at most 4"):
        pack([scene])
    with pytest.raises(ValueError, match="no scene"):
        pack([])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_devices_agree(random_scenes: list[Scene]) -> None:
    packed = pack(random_scenes)
    difference = (render(packed) - render(packed, "cuda").cpu()).abs()
    # Rounding may move an antialiased edge or a cell's border by a hair.
    assert difference.max() < 1e-2
