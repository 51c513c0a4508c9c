"""What pruning gains by the clock once its own analysis is paid for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from toprovar.evaluation.bootstrap import Interval, bootstrap
from toprovar.evaluation.report.style import DENSE, SPARSE, figure
from toprovar.plan import Ranking, ScalePlan, SparsityPlan
from toprovar.runtime.session import Generation
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.laboratory import Laboratory

__all__ = ["STUDY", "Lap", "Overhead", "Taken", "analysis", "blind", "rows_of", "words"]

_TARGET = 0.4
_PROMPTS, _LAPS = 24, 48
_GOAL = 0.03
_POLICIES = ("toprovar_search", "toprovar")
"""The better one, which is drawn, and the one that also decides a depth."""


@dataclass(frozen=True)
class Taken:
    """What one way to draw an image takes.

    Attributes:
        seconds: all of it.
        scales: by scale.
        host: ranking and depth rule on the host.
    """

    seconds: float
    scales: tuple[float, ...]
    host: float

    @classmethod
    def by(cls, *generations: Generation) -> Taken:
        """The mean of some."""
        scales = np.mean([one.scale_seconds for one in generations], 0)
        host = float(np.mean([one.analysis_seconds for one in generations]))
        return cls(float(np.mean([one.seconds for one in generations])), tuple(scales.tolist()), host)


@dataclass(frozen=True)
class Lap:
    """One prompt, drawn in three ways, one right after the other.

    Attributes:
        dense: by the dense graph.
        blind: as many tokens as the plan keeps, taken at random: nothing is observed and nothing decided.
        sparse: by the plan, right before and right after the blind one, so that a machine that slows down favours
            neither.
    """

    dense: Taken
    blind: Taken
    sparse: Taken


class Overhead(Study):
    """Net wall-clock."""

    title = "What the analysis costs"
    question = (
        "Observing entropy, ranking tokens by it and deciding the depth take time themselves. Is that at most "
        f"{_GOAL:.0%} of a sparse generation, against one of as many tokens taken at random, and what is the net "
        f"speed-up at {_TARGET:.0%} of the FLOPs?"
    )

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """The plan of each policy: dense, blind and sparse in turn, in one process."""
        prompts = laboratory.suite_prompts(min(limit or _PROMPTS, _PROMPTS))
        answers, rows, figures = [], [], []
        for name in _POLICIES:
            plan = laboratory.plan(laboratory.policy(name), _TARGET)
            laps = _laps(laboratory, name, plan, [prompt.text for prompt in prompts])
            own = rows_of(plan, laps)
            rows += [{"plan": name, **row} for row in own]
            answers.append(f"{name}: {words(laps)}")
            figures.append(_draw(plan, own))
        return Finding(" ".join(answers), tuple(rows), figures[0])


def _laps(laboratory: Laboratory, name: str, plan: SparsityPlan, texts: Sequence[str]) -> list[Lap]:
    depths = plan.depth_rule.depths if plan.depth_rule else (0,)
    session = laboratory.session(plan)
    twins = {depth: laboratory.session(blind(plan, depth), f"blind from {depth}") for depth in depths}
    for one in (session, *twins.values()):  # loads and warms the graphs
        for whole in (True, False):
            one(texts[0], dense=whole)
    laps: list[Lap] = []
    total = math.ceil(_LAPS / len(texts)) * len(texts)
    for seed in range(total):
        text = texts[seed % len(texts)]
        dense = session(text, generator=seed, dense=True)
        sparse = session(text, generator=seed)
        twin = twins[sparse.images[0].depth if plan.depth_rule else 0](text, generator=seed)
        again = session(text, generator=seed)
        laps.append(Lap(Taken.by(dense), Taken.by(twin), Taken.by(sparse, again)))
        laboratory.stages.progress(name, len(laps), total)
    return laps


def blind(plan: SparsityPlan, depth: int) -> SparsityPlan:
    """The plan from a depth on with tokens at random: it observes nothing and has nothing to decide."""
    scales = tuple(
        one if scale >= depth else ScalePlan(one.height, one.width, (one.tokens,) * plan.layers)
        for scale, one in enumerate(plan.scales)
    )
    return dataclasses.replace(plan, scales=scales, ranking=Ranking("random"), depth_rule=None)


def analysis(laps: Sequence[Lap]) -> Interval:
    """Share of a sparse generation's time by which its scales are longer than its blind twin's.

    Reading the prompt and decoding the picture are the same for both; their noise is left out.
    """
    return bootstrap([(sum(lap.sparse.scales) - sum(lap.blind.scales)) / lap.sparse.seconds for lap in laps])


def rows_of(plan: SparsityPlan, laps: Sequence[Lap]) -> tuple[Row, ...]:
    """Medians in milliseconds: one row a scale, one for text and decoding, and one for the whole image."""
    scales = [np.array([getattr(lap, name).scales for lap in laps]) for name in _WAYS]
    whole = [np.array([getattr(lap, name).seconds for lap in laps]) for name in _WAYS]
    rows = [
        _row(str(index + 1), [own[:, index] for own in scales], len(laps), one.tokens)
        for index, one in enumerate(plan.scales)
    ]
    rest = [image - own.sum(1) for image, own in zip(whole, scales, strict=True)]
    rows.append(_row("text, decoding", rest, len(laps)))
    share = analysis(laps)
    image = _row("whole image", whole, len(laps))
    image |= {"analysis": round(share.mean, 4), "from": round(share.low, 4), "to": round(share.high, 4)}
    image["ranking and rule on the host, ms"] = round(1e3 * _host(laps), 3)
    return (*rows, image)


_WAYS = ("dense", "blind", "sparse")


def _row(
    name: str, seconds: Sequence[np.ndarray], laps: int, tokens: int | None = None
) -> dict[str, str | float | None]:
    dense, random, sparse = (round(1e3 * float(np.median(values)), 3) for values in seconds)
    return {
        "scale": name,
        "tokens": tokens,
        "dense, ms": dense,
        "tokens at random, ms": random,
        "plan, ms": sparse,
        "times faster": round(dense / sparse, 3) if sparse > 0 else None,
        "analysis": None,
        "from": None,
        "to": None,
        "ranking and rule on the host, ms": None,
        "laps": laps,
    }


def _host(laps: Sequence[Lap]) -> float:
    return float(np.median([lap.sparse.host for lap in laps]))


def words(laps: Sequence[Lap]) -> str:
    """Whether the goal is met, and the net speed-up."""
    share = analysis(laps)
    faster = bootstrap([lap.dense.seconds / lap.sparse.seconds for lap in laps])
    said = "Yes" if share.high <= _GOAL else "No" if share.low > _GOAL else "Not certain"
    gain = "No gain" if faster.high < 1 else "Net speed-up" if faster.low > 1 else "No gain that can be told from none"
    return (
        f"{said}: the analysis takes {share.mean:.1%} [{share.low:.1%}, {share.high:.1%}] of a sparse generation, "
        f"{1e3 * _host(laps):.2f} ms of it on the host. {gain}, all of it paid: {faster.mean:.2f} times "
        f"[{faster.low:.2f}, {faster.high:.2f}] over {len(laps)} laps, text and decoding included."
    )


def _draw(plan: SparsityPlan, rows: Sequence[Row]) -> Figure:
    made, axes = figure(2.8, 1, 2, width_ratios=[2.2, 1])
    scales = rows[: len(plan.scales)]
    kinds = (
        ("dense, ms", DENSE, "dense"),
        ("tokens at random, ms", "0.6", "as many tokens at random"),
        ("plan, ms", SPARSE, "the plan, analysis included"),
    )
    whole = next(row for row in rows if row["scale"] == "whole image")
    for index, (column, colour, label) in enumerate(kinds):
        places = [place + 0.27 * (index - 1) for place in range(len(scales))]
        axes[0, 0].bar(places, [float(row[column] or 0) for row in scales], 0.25, color=colour, label=label)
        axes[0, 1].barh(index, float(whole[column] or 0), 0.6, color=colour)
    axes[0, 0].set_xticks(range(len(scales)), [f"{one.height} x {one.width}" for one in plan.scales], fontsize=7)
    axes[0, 0].set(xlabel="tokens of the scale", ylabel="median, ms")
    axes[0, 0].legend(loc="upper left")
    axes[0, 1].set_yticks(range(3), ["dense", "at random", "the plan"])
    axes[0, 1].invert_yaxis()
    axes[0, 1].set(xlabel="median of a whole image, ms")
    return made


STUDY = Overhead()
