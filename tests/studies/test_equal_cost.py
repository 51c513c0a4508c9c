"""Words over runs that were made up."""

from __future__ import annotations

import dataclasses

from toprovar.studies.equal_cost import words
from toprovar.studies.laboratory import Outcome, Run


def run(name: str, passed: float, psnr: float, flops: float = 0.4) -> Run:
    dense = [2.0 if index % 8 == 0 else None for index in range(20)]
    outcomes = (Outcome(index < passed * 20, "texture", psnr, 1.0, 0.0, flops, 7, dense[index]) for index in range(20))
    return Run(name, tuple(outcomes))


DENSE = run("dense", 1.0, 100.0, 1.0)


def test_the_best_of_ours_is_held_against_dense_and_every_peer() -> None:
    runs = {
        "toprovar": run("toprovar", 0.9, 35.0),
        "toprovar_search": run("toprovar_search", 1.0, 44.0),
        "fastvar": run("fastvar", 0.6, 30.0),
        "skipvar": run("skipvar", 0.7, 50.0, flops=0.52),
    }
    said = words(runs, DENSE)
    assert said.startswith("toprovar_search: score against dense 0.000 [0.000, 0.000] over 20 prompts, within 0.01")
    assert "44.0 dB to dense (44.0 by the mean error) and 2.00 times as fast" in said
    assert "Against fastvar: +14.0 dB [+14.0, +14.0] (+14.0 by the mean error), score +0.400" in said
    assert "(which took 52% of the FLOPs on these prompts)" in said
    assert said.endswith("No peer is better in both.")


def test_a_peer_that_is_better_in_both_is_named() -> None:
    runs = {"toprovar": run("toprovar", 0.5, 30.0), "stepvar": run("stepvar", 0.9, 31.0)}
    said = words(runs, DENSE)
    assert "not within 0.01" in said
    assert said.endswith("Better in both: stepvar.")


def test_equal_is_not_better() -> None:
    ours = run("toprovar", 0.9, 31.0)
    assert words({"toprovar": ours, "random": dataclasses.replace(ours)}, DENSE).endswith("No peer is better in both.")


def test_without_a_policy_of_ours_there_is_no_answer() -> None:
    assert words({"random": run("random", 1.0, 40.0)}, DENSE).startswith("No answer")
