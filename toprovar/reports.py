"""Artefacts as tables for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table

from toprovar.extensions import STATISTICS
from toprovar.manifest import Manifest
from toprovar.plan import DepthRule, SparsityPlan
from toprovar.stats import CalibrationStats

__all__ = ["depth_words", "heat_row", "manifest_table", "plan_views", "stats_table"]

_BLOCKS = " ▁▂▃▄▅▆▇█"
_LETTERS = " 12345678"


def heat_row(shares: Sequence[float], unicode: bool = True) -> str:
    """One character for each layer: the fuller, the larger its share; blank for 0.

    Args:
        shares: Numbers from 0 to 1.
        unicode: Whether to use block characters instead of digits.
    """
    steps = _BLOCKS if unicode else _LETTERS
    top = len(steps) - 1
    # Only what is wholly left out is blank, and only what is wholly kept is full.
    levels = (share if share in (0, 1) else min(max(round(share * top), 1), top - 1) / top for share in shares)
    return "".join(steps[round(level * top)] for level in levels)


def plan_views(plan: SparsityPlan, unicode: bool = True) -> list[RenderableType]:
    """A plan as a table of its scales, followed by its rules in words."""
    table = Table(title=f"plan by {plan.policy!r}", title_justify="left")
    for name in ("scale", "grid", "tokens", "kept"):
        table.add_column(name, justify="right")
    table.add_column(f"layers 0 to {plan.layers - 1}", overflow="fold")
    for name in ("dense GFLOP", "sparse GFLOP", "share"):
        table.add_column(name, justify="right")
    costs = zip(plan.cost.per_scale_dense, plan.cost.per_scale_sparse, strict=True)
    for index, (scale, (dense, sparse)) in enumerate(zip(plan.scales, costs, strict=True)):
        shares = [kept / scale.tokens for kept in scale.kept]
        table.add_row(
            str(index),
            f"{scale.height} x {scale.width}",
            str(scale.tokens),
            f"{statistics.fmean(shares):.0%}",
            heat_row(shares, unicode),
            f"{dense / 1e9:.3g}",
            f"{sparse / 1e9:.3g}",
            f"{sparse / dense:.0%}" if dense else "",
        )
    table.add_section()
    total = plan.cost
    table.add_row(
        "all",
        "",
        str(sum(scale.tokens for scale in plan.scales)),
        "",
        "",
        f"{total.dense_flops / 1e9:.3g}",
        f"{total.sparse_flops / 1e9:.3g}",
        f"{total.ratio:.0%}",
    )
    return [table, *_plan_words(plan)]


def _plan_words(plan: SparsityPlan) -> list[str]:
    observers = ", ".join(map(str, plan.ranking.observers)) or "none"
    lines = [
        f"ranking: {plan.ranking.selector}, observer layers: {observers}",
        f"restoration: {plan.restoration}",
    ]
    if plan.parameters:
        parameters = ", ".join(f"{name}={value}" for name, value in plan.parameters.items())
        lines.append(f"parameters: {parameters}")
    if plan.depth_rule is None:
        lines.append("depth: the same for every prompt; all scales run as above")
    else:
        lines += depth_words(plan.depth_rule, len(plan.scales))
    return lines


def depth_words(rule: DepthRule, scales: int) -> list[str]:
    """A depth rule in words, a line for each depth.

    Args:
        rule: The rule.
        scales: Number of scales; a depth of as many means that nothing runs sparse.
    """
    lines = [f"depth: decided after scale {rule.decided_after} by r, {STATISTICS.load(rule.statistic)(rule).words()}"]
    bounds = [None, *rule.thresholds, None]
    for low, high, depth in zip(bounds, bounds[1:], rule.depths, strict=False):
        condition = " <= ".join(part for part in (None if low is None else f"{low:g}", "r") if part is not None)
        condition += "" if high is None else f" < {high:g}"
        condition = "any r" if low is None and high is None else condition
        result = "every scale runs dense" if depth == scales else f"sparse from scale {depth}"
        lines.append(f"  {condition}: {result}")
    return lines


def manifest_table(manifest: Manifest) -> Table:
    """A manifest's facts, one a row."""
    model, sampling = manifest.model, manifest.sampling
    table = Table(title="deployment", title_justify="left", show_header=False)
    patches = ", 2 x 2 patches" if model.patchify else ""
    rows = {
        "model": f"{model.family} from {model.source}",
        "checkpoint": f"sha256 {model.sha256[:16]}...",
        "transformer": f"{model.layers} layers, width {model.width}, {model.heads} heads of {model.head_dim}",
        "codes": f"{model.code_bits} bits, {model.latent_height} x {model.latent_width}{patches}",
        "image": f"{model.image_height} x {model.image_width} pixels",
        "text": f"{manifest.text.kind}, at most {manifest.text.max_tokens} tokens of {manifest.text.channels} channels",
        "guidance": _series(sampling.guidance),
        "temperature": _series(sampling.temperature),
        "top-k, top-p": f"{sampling.top_k}, {sampling.top_p:g}",
        "backend": ", ".join(filter(None, (manifest.backend, manifest.precision, manifest.gpu))),
        "compiled with": f"toprovar {manifest.toprovar_version}",
        "packages": ", ".join(f"{name} {version}" for name, version in manifest.versions.items()),
        "files": str(len(manifest.files)),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def stats_table(stats: CalibrationStats, unicode: bool = True) -> Table:
    """Calibration statistics, one scale a row."""
    title = f"calibration: {len(stats.prompts)} prompts, {stats.layers} layers, {stats.heads} heads"
    table = Table(title=title, title_justify="left")
    for name in ("scale", "grid", "keys", "mean entropy"):
        table.add_column(name, justify="right")
    layers = f"layers 0 to {stats.layers - 1}"
    table.add_column(f"entropy, {layers}", overflow="fold")
    table.add_column(f"principal components, {layers}", overflow="fold")
    table.add_column("low-entropy ratio", justify="right")
    for index, scale in enumerate(stats.scales):
        entropies = [statistics.fmean(layer.entropy_mean) for layer in scale.layers]
        ratios = [prompt.low_entropy_ratio[index] for prompt in stats.prompts]
        table.add_row(
            str(index),
            f"{scale.height} x {scale.width}",
            str(scale.keys),
            f"{statistics.fmean(entropies):.3f}",
            heat_row(entropies, unicode),
            heat_row([layer.principal_component_ratio for layer in scale.layers], unicode),
            f"{statistics.fmean(ratios):.3f}" if ratios else "",
        )
    if stats.seconds:
        times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in stats.seconds.items())
        table.caption = times
    return table


def _series(values: Sequence[float]) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:g} at every scale"
    return ", ".join(f"{value:g}" for value in values)
