from __future__ import annotations

import numpy as np
import pytest

from toprovar.calibration.ranking import entropy_ranking
from toprovar.calibration.sensitivity import bernoulli_divergence, token_divergence
from toprovar.studies.damage import BEFORE, rankings_of, words
from toprovar.studies.group_damage import CHANCE, GroupDamage, Prune, Pruned, interval_of, measured, pruning_of, table
from toprovar.studies.laboratory import Laboratory

TOKENS = 64


def pruning(worth: np.ndarray, shared: float = 0.0) -> Prune:
    """A token that is left out loses what it is worth, every token a share of it, and the picture, too."""

    def prune(members: np.ndarray) -> Pruned:
        loss = np.full(len(worth), shared * worth[members].sum())
        loss[members] += worth[members]
        return Pruned(loss, lambda: float(worth[members].sum()) / 1e4)

    return prune


def made_up(prompts: int, rankings: dict[str, np.ndarray], worth: np.ndarray) -> list[list[GroupDamage]]:
    return [[measured(pruning(worth, 0.1), scale, rankings, seed) for scale in (5, 6)] for seed in range(prompts)]


@pytest.fixture
def worth() -> np.ndarray:
    return np.random.default_rng(1).permutation(TOKENS) + 1.0


def test_a_perfect_ranking_has_a_correlation_of_1(worth: np.ndarray) -> None:
    (scales,) = made_up(1, {"perfect": -worth, "reversed": worth, "same for all": np.ones(TOKENS)}, worth)
    for one in scales:
        for measure in ("own", "every"):
            assert one.value(measure, "perfect") == pytest.approx(1)
            assert one.value(measure, "reversed") == pytest.approx(-1)
        # a token that chance leaves out suffers from its group, too
        assert one.value("single", "perfect") > 0.95
        assert one.value("single", "reversed") < -0.95
        assert one.value("single", "same for all") == 0
        for measure in ("half", "picture"):
            assert one.value(measure, "perfect") < 1 < one.value(measure, "reversed")
            assert one.value(measure, CHANCE) == 1


def test_chance_has_none(worth: np.ndarray) -> None:
    seen = made_up(60, {"perfect": -worth}, worth)
    interval = interval_of(seen, "own", CHANCE)
    assert interval.low < 0 < interval.high
    assert abs(interval.mean) < 0.15
    assert interval_of(seen, "own", "perfect", CHANCE).low > 0.5


def test_every_token_is_left_out_once_by_each_ranking(worth: np.ndarray) -> None:
    asked: list[np.ndarray] = []

    def prune(members: np.ndarray) -> Pruned:
        asked.append(members)
        return Pruned(np.ones(TOKENS), lambda: 0.0)

    measured(prune, 3, {"one": worth}, 0, groups=16)
    assert len(asked) == 2 * (16 + 1)
    assert sorted(np.concatenate(asked[:16])) == list(range(TOKENS))
    # the half that is pruned first holds what the ranking puts last
    assert set(asked[16]) == set(np.argsort(worth)[TOKENS // 2 :])


def test_a_scale_with_fewer_tokens_than_groups(worth: np.ndarray) -> None:
    one = measured(pruning(worth[:4]), 1, {"perfect": -worth[:4]}, 0)
    assert len(one.own["perfect"]) == 4
    assert one.value("own", "perfect") == pytest.approx(1)


def test_no_damage_is_no_correlation() -> None:
    one = measured(lambda members: Pruned(np.zeros(TOKENS), lambda: 0.0), 0, {"any": np.arange(TOKENS)}, 0)
    assert [one.value(measure, "any") for measure in ("own", "every", "single", "half", "picture")] == [0, 0, 0, 1, 1]


def test_table_has_every_scale_and_their_mean(worth: np.ndarray) -> None:
    rows = table(made_up(3, {"perfect": -worth}, worth))
    assert [(row["scale"], row["ranking"]) for row in rows] == [
        (scale, name) for scale in ("6", "7", "all") for name in ("perfect", CHANCE)
    ]
    assert all(row["Spearman, pruned tokens"] == 1 for row in rows if row["ranking"] == "perfect")
    assert {row["prompts"] for row in rows} == {3}


def test_words_say_yes_no_and_what_is_better(worth: np.ndarray) -> None:
    assert words(made_up(8, {BEFORE: -worth}, worth)).startswith("Yes:")
    assert "No other statistic predicts better." in words(made_up(8, {BEFORE: -worth}, worth))
    assert "is missed least where it can be seen" in words(made_up(8, {BEFORE: -worth}, worth))
    against = words(made_up(8, {BEFORE: worth, "better": -worth}, worth))
    assert against.startswith("No, the contrary:")
    assert "Best predicts better: 1.000 [1.000, 1.000]" in against
    assert "it is missed more than chance's" in against
    generator = np.random.default_rng(2)
    noise = [[measured(pruning(worth), 5, {BEFORE: generator.random(TOKENS)}, seed)] for seed in range(30)]
    assert words(noise).startswith("No, not beyond chance:")


def test_token_divergence_adds_up_to_the_mean() -> None:
    generator = np.random.default_rng(0)
    true, other = generator.normal(size=(2, 10, 16)).astype(np.float32)
    by_token = token_divergence(true, other)
    assert by_token.shape == (10,)
    assert by_token.mean() == pytest.approx(bernoulli_divergence(true, other))
    assert token_divergence(true, true).tolist() == [0] * 10


def test_what_is_left_out_of_the_model_is_the_group(laboratory: Laboratory) -> None:
    """A left-out token keeps its input through all blocks, so that its logits do not depend on any other's."""
    layers = laboratory.subject.record.layers
    for trial in laboratory.probe(entropy_ranking(laboratory.stats()))("a red circle", 0):
        if trial.scale != 4:
            continue
        prune = pruning_of(trial, trial.attempt((trial.tokens,) * layers))
        some, more = np.array([3, 40, 41]), np.array([3, 17, 40, 41, 60])
        few, many = prune(some).divergence, prune(more).divergence
        assert few[some] == pytest.approx(many[some], rel=1e-4)
        assert few[17] != pytest.approx(many[17], rel=1e-2)
        assert (few[some] > 0).all()
        nothing = prune(np.array([], np.int64))
        assert nothing.divergence == pytest.approx(np.zeros(trial.tokens), abs=1e-9)
        assert nothing.picture_error() == pytest.approx(0, abs=1e-9)
        assert prune(more).picture_error() > 1e-9


def test_rankings_of_the_input(laboratory: Laboratory) -> None:
    for trial in laboratory.probe(entropy_ranking(laboratory.stats()))("a red circle", 0):
        found = rankings_of(trial)
        assert {values.shape for values in found.values()} == {(trial.tokens,)}
        x = trial.state.tensors["x"][0].numpy()
        assert found["distance from the mean token (FastVAR)"] == pytest.approx(
            -np.square(x - x.mean(0)).sum(1), rel=1e-4, abs=1e-4
        )
