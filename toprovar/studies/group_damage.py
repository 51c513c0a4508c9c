"""What is lost when a group of tokens, and nothing else, is left out: the yardstick of every ranking.

The tokens of a scale are parted into groups of equal size by their place in a ranking, and one group at a time is
left out in all layers; then the half that the ranking would prune first, at once. Lost is the Kullback-Leibler
divergence of the bits' distributions from dense to pruned, in nats a bit: of the pruned tokens themselves, and of
all tokens of the scale, which the pruned ones no longer inform. The past is dense, and prompt and noise are the same
throughout. What bits lose, later scales may mend: of the half, the error of the finished picture is taken, too.

A ranking supposes that its first group loses most. So its Spearman correlation is that of the reversed place with
the loss over the groups of one prompt and scale: 1 if the ranking is right throughout, 0 if it is no better than
chance, negative if the reverse would be better. Prompts are the independent samples, hence what is resampled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from toprovar.calibration.sensitivity import Attempt, picture_error, token_divergence
from toprovar.evaluation.bootstrap import Interval, bootstrap
from toprovar.pipeline.probing import ProbedScale
from toprovar.studies.base import Row
from toprovar.studies.correlation import spearman

__all__ = ["CHANCE", "GROUPS", "GroupDamage", "Prune", "Pruned", "interval_of", "measured", "pruning_of", "table"]

GROUPS = 16
CHANCE = "chance"
"""Name of the ranking that every other has to beat."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """A scale without some of its tokens.

    Attributes:
        divergence: of every token's bits from dense, [tokens].
        picture_error: error of the picture that the later scales, computed densely, make of it.
    """

    divergence: np.ndarray
    picture_error: Callable[[], float]


Prune = Callable[[np.ndarray], Pruned]
"""Leaves tokens out, given by their places [members]."""


@dataclass(frozen=True, eq=False)
class GroupDamage:
    """One scale of one prompt, by ranking; groups as the ranking has them, most important first.

    Attributes:
        scale: index of the scale.
        own: mean divergence of a group's own tokens, [groups].
        every: mean divergence of all tokens, [groups].
        single: Spearman correlation over single tokens, each left out in a group that chance made.
        half: mean divergence of all tokens when the half that is pruned first is left out at once.
        picture: error of the finished picture then.
    """

    scale: int
    own: Mapping[str, np.ndarray]
    every: Mapping[str, np.ndarray]
    single: Mapping[str, float]
    half: Mapping[str, float]
    picture: Mapping[str, float]

    def value(self, measure: str, name: str) -> float:
        """One figure of a ranking: ``own``, ``every``, ``single``, ``half`` or ``picture``.

        ``half`` is over that of chance.
        """
        if measure == "single":
            return self.single[name]
        if measure in ("half", "picture"):
            lost = self.half if measure == "half" else self.picture
            return lost[name] / lost[CHANCE] if lost[CHANCE] > 0 else 1.0
        losses = (self.every if measure == "every" else self.own)[name]
        return spearman(-np.arange(len(losses)), losses)


def pruning_of(trial: ProbedScale, dense: Attempt) -> Prune:
    """Leaves tokens out of a scale in all layers.

    Args:
        trial: the scale; its ranking must be one that keeps the order it is given.
        dense: the scale with all of its tokens.
    """
    picture = dense.picture()

    def prune(members: np.ndarray) -> Pruned:
        prior = np.zeros((1, trial.tokens), np.float32)
        prior[0, members] = 1
        sorted_last = replace(trial, state=replace(trial.state, prior=prior))
        kept = (trial.tokens - len(members),) * trial.backend.model.layers
        attempt = sorted_last.attempt(kept)
        divergence = token_divergence(dense.differences, attempt.differences)
        return Pruned(divergence, lambda: picture_error(attempt.picture(), picture))

    return prune


def measured(
    prune: Prune, scale: int, rankings: Mapping[str, np.ndarray], seed: int, groups: int = GROUPS
) -> GroupDamage:
    """Leaves out every group of every ranking, and of one that chance makes.

    Args:
        prune: leaves out some tokens of the scale.
        scale: its index.
        rankings: values of every token [tokens] by name, lowest for the most important.
        seed: of chance.
        groups: number of groups, at most one a token.
    """
    tokens = len(next(iter(rankings.values())))
    chance = np.random.default_rng([seed, scale]).permutation(tokens)
    own: dict[str, np.ndarray] = {}
    every: dict[str, np.ndarray] = {}
    half: dict[str, float] = {}
    picture: dict[str, float] = {}
    alone = np.zeros(tokens)
    for name, values in {**rankings, CHANCE: chance}.items():
        order = np.argsort(values, kind="stable")
        parts = np.array_split(order, min(groups, tokens))
        losses = [prune(part).divergence for part in parts]
        own[name] = np.array([loss[part].mean() for loss, part in zip(losses, parts, strict=True)])
        every[name] = np.array([loss.mean() for loss in losses])
        at_once = prune(order[tokens - tokens // 2 :])
        half[name], picture[name] = float(at_once.divergence.mean()), at_once.picture_error()
        if name == CHANCE:
            for loss, part in zip(losses, parts, strict=True):
                alone[part] = loss[part]
    single = {name: spearman(-np.asarray(values), alone) for name, values in {**rankings, CHANCE: chance}.items()}
    return GroupDamage(scale, own, every, single, half, picture)


def interval_of(
    prompts: Sequence[Sequence[GroupDamage]], measure: str, name: str, against: str | None = None
) -> Interval:
    """A figure's mean over scales, with the interval of its mean over prompts.

    Args:
        prompts: the scales of every prompt.
        measure: as of `GroupDamage.value`.
        name: the ranking.
        against: another ranking whose figure is taken off, pair by pair.
    """
    return bootstrap(
        [
            float(
                np.mean(
                    [one.value(measure, name) - (one.value(measure, against) if against else 0.0) for one in scales]
                )
            )
            for scales in prompts
        ]
    )


def table(prompts: Sequence[Sequence[GroupDamage]]) -> tuple[Row, ...]:
    """One row a scale and ranking, and one for the mean of all scales."""
    rows: list[Row] = []
    scales = [one.scale for one in prompts[0]]
    names = list(prompts[0][0].own)
    for scale in (*scales, None):
        chosen = [[one for one in own if scale is None or one.scale == scale] for own in prompts]
        for name in names:
            row: dict[str, str | int | float | bool | None] = {
                "scale": "all" if scale is None else str(scale + 1),
                "ranking": name,
            }
            for measure, label in _LABELS.items():
                interval = interval_of(chosen, measure, name)
                row |= {
                    label: round(interval.mean, 4),
                    f"{label}: from": round(interval.low, 4),
                    f"{label}: to": round(interval.high, 4),
                }
            row["nats a bit"] = float(np.mean([one.own[name].mean() for own in chosen for one in own]))
            row["prompts"] = len(prompts)
            rows.append(row)
    return tuple(rows)


_LABELS = {
    "own": "Spearman, pruned tokens",
    "every": "Spearman, all tokens",
    "single": "Spearman, token by token",
    "half": "damage of half at once, over chance",
    "picture": "picture error of half at once, over chance",
}
