"""What pruning gains by the clock once its own analysis is paid for."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from toprovar.evaluation.bootstrap import Interval, bootstrap
from toprovar.evaluation.report.style import DENSE, SPARSE, figure
from toprovar.plan import SparsityPlan
from toprovar.runtime.backends.base import Controls
from toprovar.runtime.noise import certainty, logistic_noise
from toprovar.runtime.session import Generation, Session
from toprovar.studies.base import Finding, Row, Study
from toprovar.studies.laboratory import Laboratory

__all__ = ["STUDY", "Lap", "Overhead", "analysis", "rows_of", "watched_scales", "words"]

_TARGET = 0.4
_PROMPTS, _LAPS = 24, 8
_GOAL = 0.03
_POLICIES = ("toprovar_search", "toprovar")
"""The better one, which is drawn, and the one that also decides a depth."""


@dataclass(frozen=True)
class Lap:
    """One prompt, drawn in three ways, one right after the other.

    Attributes:
        dense: by the dense graph.
        watched: seconds by scale of the adaptive graph with all tokens kept.
        sparse: by the plan.
    """

    dense: Generation
    watched: tuple[float, ...]
    sparse: Generation


class Overhead(Study):
    """Net wall-clock."""

    title = "What the analysis costs"
    question = (
        "Observing entropy, sorting tokens and deciding the depth take time themselves. Is that at most "
        f"{_GOAL:.0%} of a sparse generation, and what is the net speed-up at {_TARGET:.0%} of the FLOPs?"
    )

    def run(self, laboratory: Laboratory, limit: int | None) -> Finding:
        """The plan of each policy: dense, watched and sparse in turn, in one process."""
        prompts = laboratory.suite_prompts(min(limit or _PROMPTS, _PROMPTS))
        answers, rows, figures = [], [], []
        for name in _POLICIES:
            plan = laboratory.plan(laboratory.policy(name), _TARGET)
            session = laboratory.session(plan)
            _lap(session, prompts[0].text, 0)  # loads and warms the graphs
            laps = []
            for turn in range(math.ceil(_LAPS / len(prompts))):
                for index, prompt in enumerate(prompts):
                    laps.append(_lap(session, prompt.text, turn * len(prompts) + index))
                    laboratory.stages.progress(name, len(laps), math.ceil(_LAPS / len(prompts)) * len(prompts))
            own = rows_of(plan, laps)
            rows += [{"plan": name, **row} for row in own]
            answers.append(f"{name}: {words(plan, laps)}")
            figures.append(_draw(plan, own, laps))
        return Finding(" ".join(answers), tuple(rows), figures[0])


def _lap(session: Session, text: str, seed: int) -> Lap:
    dense = session(text, generator=seed, dense=True)
    return Lap(dense, _watch(session, text, seed), session(text, generator=seed))


def _watch(session: Session, text: str, seed: int) -> tuple[float, ...]:
    """Seconds of every scale, as a session counts them, were each to be observed and sorted but not pruned.

    Nobody reads the last scale's entropy, which a deployment leaves out, too.
    """
    sampling, plan, state = session.sampling, session.plan, session.begin(text)
    certain, seconds = certainty(sampling.top_k, sampling.top_p), []
    for scale, one in enumerate(plan.scales):
        started = time.perf_counter()
        noise = logistic_noise(seed, scale, one.tokens, session.backend.model.code_bits)[None]
        kept = (one.tokens,) * plan.layers
        read = scale + 1 < len(plan.scales)
        controls = Controls(noise, sampling.guidance[scale], sampling.temperature[scale], certain, kept, ranks=read)
        state = session.backend.step(state, controls).state
        seconds.append(time.perf_counter() - started)
    return tuple(seconds)


def watched_scales(plan: SparsityPlan, depth: int) -> set[int]:
    """Scales that a session runs through the adaptive graph.

    They are the pruned ones, those that they are ranked by, and the one that the depth is decided after.

    Args:
        plan: what is run.
        depth: first scale that runs sparse.
    """
    pruned = {scale for scale in range(depth, len(plan.scales)) if not plan.scales[scale].is_dense}
    read = {scale - 1 for scale in pruned} if plan.pruning.needs_previous_scale else set()
    rule = plan.depth_rule
    return pruned | read | ({rule.decided_after} if rule and rule.needs_entropy else set())


def analysis(plan: SparsityPlan, laps: Sequence[Lap], least: bool = False) -> list[float]:
    """Seconds of analysis of each lap's sparse generation.

    They are the host's, and what the adaptive graph with all tokens takes longer than the dense one at the scales
    where it ran: medians, since a scale of one lap is shorter than the clock's jitter. A pruned scale sorts as many
    tokens but observes fewer, so that this bounds the cost from above.

    Args:
        plan: what was run.
        laps: what was measured.
        least: bound it from below instead: a pruned scale's in proportion to what its observers keep.
    """
    longer = np.median([lap.watched for lap in laps], 0) - np.median([lap.dense.scale_seconds for lap in laps], 0)

    def cost(scale: int, depth: int) -> float:
        kept = plan.kept(scale, depth)
        seen = [kept[layer] for layer in plan.ranking.observers] or kept
        return float(longer[scale]) * (float(np.mean(seen)) / plan.scales[scale].tokens if least else 1.0)

    depths = [lap.sparse.images[0].depth for lap in laps]
    return [
        lap.sparse.analysis_seconds + sum(cost(scale, depth) for scale in watched_scales(plan, depth))
        for lap, depth in zip(laps, depths, strict=True)
    ]


def _share(plan: SparsityPlan, laps: Sequence[Lap], least: bool = False) -> Interval:
    return bootstrap([own / lap.sparse.seconds for own, lap in zip(analysis(plan, laps, least), laps, strict=True)])


def rows_of(plan: SparsityPlan, laps: Sequence[Lap]) -> tuple[Row, ...]:
    """Medians in milliseconds: one row a scale, one for text and decoding, and one for the whole image."""
    dense, watched, sparse = (
        np.array([times(lap) for lap in laps])
        for times in (
            lambda lap: lap.dense.scale_seconds,
            lambda lap: lap.watched,
            lambda lap: lap.sparse.scale_seconds,
        )
    )
    rows: list[Row] = [
        _row(
            str(scale + 1),
            dense[:, scale],
            watched[:, scale],
            sparse[:, scale],
            float(np.mean([scale in watched_scales(plan, lap.sparse.images[0].depth) for lap in laps])),
            len(laps),
            one.tokens,
        )
        for scale, one in enumerate(plan.scales)
    ]
    whole, pruned = (np.array([getattr(lap, name).seconds for lap in laps]) for name in ("dense", "sparse"))
    rest = whole - dense.sum(1)
    rows.append(_row("text, decoding", rest, rest, pruned - sparse.sum(1), None, len(laps)))
    host = float(np.median([lap.sparse.analysis_seconds for lap in laps]))
    image = _row("whole image", whole, watched.sum(1) + rest, pruned, None, len(laps))
    share = _share(plan, laps)
    rows.append(
        {
            **image,
            "ranking and rule on the host, ms": round(1e3 * host, 3),
            "analysis, at least": round(_share(plan, laps, least=True).mean, 4),
            "analysis, at most": round(share.mean, 4),
            "from": round(share.low, 4),
            "to": round(share.high, 4),
        }
    )
    return tuple(rows)


def _row(
    name: str,
    dense: np.ndarray,
    watched: np.ndarray,
    sparse: np.ndarray,
    adaptive: float | None,
    laps: int,
    tokens: int | None = None,
) -> Row:
    whole, all_kept, pruned = (round(1e3 * float(np.median(values)), 3) for values in (dense, watched, sparse))
    return {
        "scale": name,
        "tokens": tokens,
        "dense, ms": whole,
        "adaptive, all tokens, ms": all_kept,
        "observing and sorting, ms": round(all_kept - whole, 3),
        "sparse plan, ms": pruned,
        "times faster": round(whole / pruned, 3) if pruned > 0 else None,
        "share of images that observe": adaptive,
        "ranking and rule on the host, ms": None,
        "analysis, at least": None,
        "analysis, at most": None,
        "from": None,
        "to": None,
        "laps": laps,
    }


def words(plan: SparsityPlan, laps: Sequence[Lap]) -> str:
    """Whether the goal is met, and the net speed-up."""
    least, share = _share(plan, laps, least=True), _share(plan, laps)
    faster = bootstrap([lap.dense.seconds / lap.sparse.seconds for lap in laps])
    said = "Yes" if share.high <= _GOAL else "No" if least.low > _GOAL else "Not certain"
    host = float(np.median([lap.sparse.analysis_seconds for lap in laps]))
    gain = "No gain" if faster.high < 1 else "Net speed-up" if faster.low > 1 else "No gain that can be told from none"
    return (
        f"{said}: the analysis takes from {least.mean:.1%} [{least.low:.1%}, {least.high:.1%}] to {share.mean:.1%} "
        f"[{share.low:.1%}, {share.high:.1%}] of a sparse generation, {1e3 * host:.2f} ms of it on the host. {gain}, "
        f"all of it paid: {faster.mean:.2f} times [{faster.low:.2f}, {faster.high:.2f}] over {len(laps)} laps, text "
        "and decoding included."
    )


def _draw(plan: SparsityPlan, rows: Sequence[Row], laps: Sequence[Lap]) -> Figure:
    made, axes = figure(2.8, 1, 2, width_ratios=[2.2, 1])
    scales = rows[: len(plan.scales)]
    kinds = (("dense, ms", DENSE, "dense"), ("adaptive, all tokens, ms", "0.6", "adaptive, all tokens kept"))
    for index, (column, colour, label) in enumerate((*kinds, ("sparse plan, ms", SPARSE, "sparse plan"))):
        places = [place + 0.27 * (index - 1) for place in range(len(scales))]
        axes[0, 0].bar(places, [float(row[column] or 0) for row in scales], 0.25, color=colour, label=label)
    axes[0, 0].set_xticks(range(len(scales)), [f"{one.height} x {one.width}" for one in plan.scales], fontsize=7)
    axes[0, 0].set(xlabel="tokens of the scale", ylabel="median, ms")
    axes[0, 0].legend(loc="upper left")
    host = 1e3 * float(np.median([lap.sparse.analysis_seconds for lap in laps]))
    paid = 1e3 * float(np.median(analysis(plan, laps)))
    whole, rest = (next(row for row in rows if row["scale"] == name) for name in ("whole image", "text, decoding"))
    for place, column in enumerate(("dense, ms", "sparse plan, ms")):
        outside, total = float(rest[column] or 0), float(whole[column] or 0)
        extra = min(max(paid - host, 0.0), total - outside - host) if place else 0.0
        parts = [(outside, "0.75", "text, decoding"), (total - outside - extra - host * place, DENSE, "transformer")]
        parts += [(extra, SPARSE, "observing, sorting (at most)"), (host * place, "#d55e00", "ranking and rule, host")]
        left = 0.0
        for width, colour, label in parts:
            axes[0, 1].barh(place, width, 0.6, left=left, color=colour, label=label if place else None)
            left += width
    axes[0, 1].set_yticks([0, 1], ["dense", "sparse"])
    axes[0, 1].set(xlabel="median of a whole image, ms", ylim=(3.4, -0.5))
    axes[0, 1].legend(loc="lower left", fontsize=8)
    return made


STUDY = Overhead()
