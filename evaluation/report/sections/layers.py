"""Scale by layer: what the layers' representations are like, and what the plan keeps of them."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from toprovar.calibration.taxonomy import THRESHOLD, layer_kinds
from toprovar.evaluation.report.material import CALIBRATION, Material
from toprovar.evaluation.report.matrix import draw_matrix, matrix_height
from toprovar.evaluation.report.section import Missing, Picture, Section
from toprovar.evaluation.report.style import figure, png
from toprovar.plan import SparsityPlan
from toprovar.stats import CalibrationStats

__all__ = ["draw_scale_by_layer", "make"]

_EXPLANATION = (
    "Left, R: how much of the variance of a layer's output its leading principal components carry; a dot marks a "
    "Global layer, all others are Detail layers. Right, what the plan makes of it: the share of a scale's tokens that "
    "each layer computes, where dark cells are where the FLOPs are saved."
)


def draw_scale_by_layer(stats: CalibrationStats | None, plan: SparsityPlan) -> Figure:
    """Both matrices side by side.

    Args:
        stats: The calibration; None leaves its matrix out.
        plan: The plan.
    """
    made, axes = figure(matrix_height(plan.layers), 1, 2)
    ratios, shares = axes[0]
    norm = Normalize(0, 1)
    if stats is None:
        ratios.set_axis_off()
    else:
        values = np.array([[layer.principal_component_ratio for layer in scale.layers] for scale in stats.scales])
        marked = np.array([[kind == "global" for kind in layer_kinds(row)] for row in values.tolist()])
        image = draw_matrix(ratios, values, norm, "R, with Global layers dotted", marked)
        made.colorbar(image, ax=ratios, label="share of variance").outline.set_visible(False)
    kept = np.array([[count / scale.tokens for count in scale.kept] for scale in plan.scales])
    image = draw_matrix(shares, kept, norm, "kept")
    made.colorbar(image, ax=shares, label="share of tokens").outline.set_visible(False)
    return made


def make(material: Material) -> Section:
    """The section."""
    stats = material.stats
    notes = (stats.line,) if isinstance(stats, Missing) else ()
    known = None if isinstance(stats, Missing) else stats
    prompts = "" if known is None else f", mean over {len(known.prompts)} prompts"
    picture = Picture(
        "layers",
        png(draw_scale_by_layer(known, material.plan)),
        f"R by scale and layer{prompts}, and kept shares at the earliest depth. Global: R above {THRESHOLD} "
        "(calibration/taxonomy.py, after ToProVAR, arXiv 2602.22948); a scale of one token has no kinds.",
        f"{CALIBRATION}: principal_component_ratio; plan.json: scales.kept",
    )
    return Section("layers", "Scale by layer", _EXPLANATION, (picture,), notes=notes)
