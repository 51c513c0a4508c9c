from __future__ import annotations

import numpy as np

from toprovar.studies.group_damage import Pruned, measured
from toprovar.studies.laboratory import Outcome, Run
from toprovar.studies.normalisation import PLAIN, STANDARDISED, words


def test_words_compare_rankings_and_pictures() -> None:
    worth = np.arange(64.0)

    def prune(members: np.ndarray) -> Pruned:
        loss = np.zeros(64)
        loss[members] = worth[members]
        return Pruned(loss, lambda: float(loss.sum()))

    seen = [[measured(prune, 5, {STANDARDISED: -worth, PLAIN: worth}, seed)] for seed in range(8)]
    runs = {
        name: Run(name, tuple(Outcome(True, "texture", psnr, 1.0, 0.0, 0.4, 0) for _ in range(8)))
        for name, psnr in ((STANDARDISED, 20.0), (PLAIN, 21.0))
    }
    said = words(seen, runs)
    assert said.startswith("Yes for the ranking:")
    assert "a difference of 2.000 [2.000, 2.000] over 1 scales and 8 prompts" in said
    assert "No, it is worse for the pictures" in said
    assert "-1.000 [-1.000, -1.000] dB" in said
    assert words(seen, {}).endswith("No pictures: the plan is out of reach.")
    same = [[measured(prune, 5, {STANDARDISED: worth, PLAIN: worth}, seed)] for seed in range(8)]
    assert words(same, {}).startswith("No difference that can be told from chance for the ranking")
