from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from toprovar.errors import UsageError
from toprovar.evaluation.suites import shapes
from toprovar.pipeline.graphs import BuiltGraphs, GraphStore
from toprovar.plan import Ranking, SparsityPlan
from toprovar.studies.laboratory import Laboratory


def test_calibrations_are_made_once_and_told_apart(laboratory: Laboratory) -> None:
    assert laboratory.stats() is laboratory.stats(seed=laboratory.seed)
    other = laboratory.stats(seed=7)
    assert [prompt.seed for prompt in other.prompts] == [7, 8]
    assert other.scales != laboratory.stats().scales
    one = laboratory.stats(prompts=laboratory.calibration_prompts[:1])
    assert len(one.prompts) == 1
    assert laboratory.table().stats is laboratory.stats()
    assert laboratory.table(seed=7).stats is other


def test_plans_that_prune_alike_share_their_graphs(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[SparsityPlan] = []

    def build(self: GraphStore, plan: SparsityPlan, folder: Path) -> BuiltGraphs:
        built.append(plan)
        return BuiltGraphs(folder, {})

    monkeypatch.setattr(GraphStore, "_build", build)
    own = dataclasses.replace(laboratory, backend="onnxruntime", folder=laboratory.folder / "other")
    first = own.plan(own.policy("toprovar"), 0.5, laboratory.stats())
    second = own.plan(own.policy("toprovar", standardised=False, scale=False), 0.6, laboratory.stats())
    third = own.plan(own.policy("toprovar", restoration="cached"), 0.6, laboratory.stats())
    assert first.ranking != second.ranking
    sessions = [own.session(plan) for plan in (first, second, third)]
    assert [plan is first for plan in built] == [True, False]
    assert built[1] is third
    # each has its own moments for all that
    tables = [session.backend.constants["entropy_mean"] for session in sessions]
    assert tables[0].tolist() != tables[1].tolist() == (0 * tables[0]).tolist()


def test_dense_is_drawn_once_by_one_session(laboratory: Laboratory) -> None:
    prompts = laboratory.suite_prompts(2)
    first, second = (laboratory.run_dense(prompts) for _ in range(2))
    assert first.values("seconds") == second.values("seconds")


def test_time_is_compared_in_turn(laboratory: Laboratory) -> None:
    plan = laboratory.plan(laboratory.policy("random"), 0.5)
    run = laboratory.run("random", plan, laboratory.suite_prompts(10))
    timed = [one for one in run.outcomes if one.dense_seconds is not None]
    assert timed == [run.outcomes[0], run.outcomes[8]]
    dense = [one.dense_seconds or 0.0 for one in timed]
    assert run.times_faster == pytest.approx(np.sum(dense) / np.sum([one.seconds for one in timed]))
    assert laboratory.run_dense(laboratory.suite_prompts(2)).times_faster == 1


def test_what_the_suite_cannot_judge_is_said(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prompts: object, images: object) -> None:
        raise ValueError("image is uint8 [32, 32, 3]")

    monkeypatch.setattr(type(shapes.SUITE), "score", staticmethod(refuse))
    with pytest.raises(UsageError, match="the suite 'shapes' cannot judge these images: image is uint8"):
        laboratory.run_dense(laboratory.suite_prompts(1))


def test_a_probe_sees_what_a_ranking_hands_on(laboratory: Laboratory) -> None:
    *_, last = laboratory.probe(Ranking("chunk_change"))("a red circle", 0)
    assert last.last
    assert last.state.prior.shape == (1, last.tokens)
    assert last.state.prior.std() > 0
