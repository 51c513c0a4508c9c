"""What `toprovar eval` does: draw a suite's prompts and score the images, dense beside sparse."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from toprovar.console import results
from toprovar.cost import plan_share
from toprovar.errors import UsageError
from toprovar.evaluation.fidelity import MOST_PSNR, psnr
from toprovar.extensions import SUITES
from toprovar.jsonfile import write_text
from toprovar.progress import Stages
from toprovar.runtime.backends.base import EngineOptions
from toprovar.runtime.session import GeneratedImage, Session

__all__ = ["Scored", "evaluate"]


@dataclasses.dataclass(frozen=True)
class Scored:
    """A way to run the plan, over a whole suite.

    Attributes:
        score: mean over categories, 0 to 1.
        categories: share passed by category.
        seconds: mean wall-clock an image, text and decoding included.
        flops: mean transformer FLOPs over dense, from the depths that the prompts got.
        psnr: mean PSNR to the dense image of the same noise in dB; None for dense itself.
        analysis_share: share of the time that the depth rule's host side took.
    """

    score: float
    categories: dict[str, float]
    seconds: float
    flops: float
    psnr: float | None
    analysis_share: float


def evaluate(
    folder: Path,
    *,
    suite: str = "shapes",
    limit: int | None = None,
    dense: bool = False,
    backend: str | None = None,
    engine: EngineOptions = EngineOptions(),  # noqa: B008  frozen
    output: Path | None = None,
) -> dict[str, Any]:
    """Scores a deployment.

    Args:
        folder: the deployment.
        suite: name of a suite.
        limit: use this many prompts, spread over the suite.
        dense: score the dense model only.
        backend: engine; as compiled if None.
        engine: how it is to work.
        output: JSON report to write.

    Returns:
        A summary for printing.
    """
    judge = SUITES.load(suite)
    prompts = judge.prompts(limit)
    if not prompts:
        raise UsageError(f"the suite {suite!r} has no prompts; expected some", "raise --limit")
    modes = (True,) if dense else (True, False)
    images: dict[bool, list[GeneratedImage]] = {mode: [] for mode in modes}
    seconds = dict.fromkeys(modes, 0.0)
    analysis = dict.fromkeys(modes, 0.0)
    with Session.open(folder, backend, options=engine) as session, Stages() as stages:
        for mode in modes:
            session(prompts[0].text, dense=mode)  # loads the graphs
        for index, prompt in enumerate(prompts):
            for mode in modes:
                started = time.perf_counter()
                generation = session(prompt.text, generator=index, dense=mode)
                seconds[mode] += time.perf_counter() - started
                analysis[mode] += generation.analysis_seconds
                images[mode].append(generation.images[0])
            stages.progress("draw", index + 1, len(prompts))
        scored: dict[str, Scored] = {}
        for mode in modes:
            marks = judge.score(prompts, [one.picture for one in images[mode]])
            quality = None
            if not mode:
                pairs = zip(images[False], images[True], strict=True)
                quality = float(np.mean([min(psnr(a.pixels, b.pixels), MOST_PSNR) for a, b in pairs]))
            scored["dense" if mode else "sparse"] = Scored(
                score=marks.mean,
                categories={one.category: one.share for one in marks.categories},
                seconds=seconds[mode] / len(prompts),
                flops=1.0 if mode else _mean_flops(session, images[False]),
                psnr=quality,
                analysis_share=analysis[mode] / seconds[mode],
            )
        ran = session.backend.describe()
    _print(scored, f"{suite} on {ran}: {len(prompts)} prompts, one image each")
    summary = {
        "suite": suite,
        "engine": ran,
        "prompts": len(prompts),
        **{name: dataclasses.asdict(one) for name, one in scored.items()},
    }
    if output:
        write_text(output, json.dumps(summary, indent=1))
    return summary


def _mean_flops(session: Session, images: list[GeneratedImage]) -> float:
    """Transformer FLOPs over dense, each image at the depth that it got and with a text of its own length."""
    shares = [
        plan_share(
            session.plan,
            session.backend.model,
            one.depth,
            len(session.tokenize(one.prompt)) if session.tokenize else 1,
        )
        for one in images
    ]
    return float(np.mean(shares))


def _print(scored: dict[str, Scored], title: str) -> None:
    table = Table()
    table.add_column("")
    for name in scored:
        table.add_column(name, justify="right")
    rows = [("all", [f"{one.score:.3f}" for one in scored.values()])]
    first = next(iter(scored.values()))
    rows += [(name, [f"{one.categories[name]:.3f}" for one in scored.values()]) for name in first.categories]
    rows.append(("seconds an image", [f"{one.seconds:.2f}" for one in scored.values()]))
    rows.append(("transformer FLOPs", [f"{one.flops:.1%}" for one in scored.values()]))
    rows.append(("PSNR to dense, dB", ["" if one.psnr is None else f"{one.psnr:.1f}" for one in scored.values()]))
    for name, cells in rows:
        table.add_row(name, *cells)
    results().print(title, table, sep="\n")
