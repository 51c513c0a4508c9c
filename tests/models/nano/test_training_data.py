"""Scenes, and what their tokens count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from toprovar.evaluation.suites.shapes import CATEGORIES, HELD_OUT
from toprovar.models.nano.data import PendingScenes, ScenePool, _sample_chunk, start_workers
from toprovar.models.nano.renderer import pack
from toprovar.models.nano.sampling import EXAMPLES, tuning_prompts
from toprovar.models.nano.scenes import Background, Scene, SceneObject
from toprovar.models.nano.train_transformer import token_importance
from toprovar.models.nano.vocabulary import UNKNOWN, WORDS, encode

INDEX = torch.arange(2)


@pytest.fixture(scope="module")
def pool() -> ScenePool:
    background = Background("gray", "plain")
    plain = SceneObject("square", "red", "solid", 32.0, 64.0, 192.0)
    dotted = SceneObject("circle", "red", "dotted", 32.0, 192.0, 64.0)
    scenes = [Scene(background, (plain,), 0), Scene(background, (plain, dotted), 1)]
    return ScenePool(pack(scenes), torch.zeros(2, 24, dtype=torch.int64))


def test_tokens_in_objects_count_more_and_in_textured_ones_most(pool: ScenePool) -> None:
    weight = pool.token_importance(INDEX, 8, 4.0).unflatten(1, (8, 8))
    assert weight.mean().item() == pytest.approx(1)
    background = weight[0, 0, 0]
    torch.testing.assert_close(weight[:, 5:7, 1:3] / background, torch.full((2, 2, 2), 5.0))
    torch.testing.assert_close(weight[1, 1:3, 5:7] / background, torch.full((2, 2), 11.0))
    assert (weight[0] > background).sum() == 4
    assert (weight[1] > background).sum() == 8


@pytest.mark.parametrize("size", [1, 6, 12])
def test_a_coarse_token_counts_by_the_share_that_is_covered(size: int, pool: ScenePool) -> None:
    weight = pool.token_importance(INDEX[:1], size, 4.0)
    covered = weight / pool.token_importance(INDEX[:1], size, 4.0).min() if size > 1 else weight
    assert covered.mean().item() == pytest.approx(1 + 4 / 16 if size > 1 else 1)


def test_objects_count_more_only_where_the_layout_is_known(pool: ScenePool) -> None:
    grids = ((1, 1), (2, 2), (4, 4), (6, 6), (8, 8), (12, 12))
    parts = token_importance(pool, INDEX, grids).split([h * w for h, w in grids], dim=1)
    for part in parts[:-1]:
        torch.testing.assert_close(part, torch.ones_like(part))
    assert parts[-1].max() > 4
    assert parts[-1].mean().item() == pytest.approx(1)


def test_a_batch_is_drawn_by_its_generator(pool: ScenePool) -> None:
    one, other = (pool.draw(64, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert one.tolist() == pool.draw(64, torch.Generator().manual_seed(1)).tolist() != other.tolist()
    assert set(one.tolist()) == {0, 1}


def test_workers_draw_what_one_process_draws() -> None:
    with start_workers(1) as workers:
        drawn = PendingScenes.start(2000, 7, workers).collect(torch.device("cpu"))
    assert len(drawn) == 2000
    fields, tokens = _sample_chunk(7 * 1_000_003, 1024)
    np.testing.assert_array_equal(drawn.tokens[:1024], tokens)
    np.testing.assert_array_equal(drawn.scenes.geometry[:1024], fields["geometry"])
    assert (drawn.tokens[:900] != drawn.tokens[1024:1924]).any()
    held_out = {tuple(encode(text)) for text in HELD_OUT}
    assert not held_out & {tuple(one) for one in drawn.tokens.tolist()}


def test_examples_and_tuning_prompts() -> None:
    assert len(EXAMPLES) == len(CATEGORIES) + 1
    assert all(UNKNOWN not in encode(caption) for caption in EXAMPLES)
    assert len(WORDS) > UNKNOWN
    prompts = tuning_prompts()
    counts = [sum(prompt.requirements.category == category for prompt in prompts) for category in CATEGORIES]
    assert counts == [8] * 7


def test_without_objects_leaves_backgrounds_and_captions() -> None:
    scene = Scene(Background("gray", "plain"), (SceneObject("square", "red", "solid", 32.0, 64.0, 192.0),), 0)
    full = ScenePool(pack([scene] * 8), torch.arange(8))
    emptied = full.without_objects(0.25)
    spread = emptied.images(torch.arange(8)).flatten(1).std(1)
    assert (spread == 0).tolist() == [True, False, False, False] * 2
    assert torch.equal(emptied.tokens, full.tokens)
    assert (full.scenes.shape[:, 0] >= 0).all()
