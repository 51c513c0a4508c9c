"""What `toprovar verify` does: whole generations on the deployment's backend against eager torch."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from toprovar.console import results
from toprovar.deployment import Deployment
from toprovar.errors import VerificationFailed
from toprovar.evaluation.fidelity import MOST_PSNR, psnr
from toprovar.extensions import BACKENDS
from toprovar.generation import EXAMPLES_FILE
from toprovar.progress import Stages
from toprovar.runtime.backends.base import EngineOptions
from toprovar.runtime.session import GeneratedImage, Session
from toprovar.runtime.tensorrt.preflight import GRAPHS

__all__ = ["LEAST_EQUAL_BITS", "LEAST_PSNR", "Comparison", "verify"]

LEAST_EQUAL_BITS = 0.999
LEAST_PSNR = 40.0
_REFERENCE = "torch"


@dataclass(frozen=True)
class Comparison:
    """One prompt on both backends, from the same noise.

    Attributes:
        prompt: what was drawn.
        dense: whether every token was computed.
        equal_bits: share of equal bits over all scales.
        psnr: of the images, in dB; infinite if they are equal.
    """

    prompt: str
    dense: bool
    equal_bits: float
    psnr: float


def verify(folder: Path, prompts: int = 2, model: str | None = None) -> dict[str, Any]:
    """Compares a deployment with the model that it was compiled from.

    Args:
        folder: the deployment.
        prompts: how many of its own prompts to draw, each dense and sparse.
        model: the checkpoint; the manifest's own if None.

    Returns:
        A summary for printing.

    Raises:
        VerificationFailed: the mean share of equal bits or the mean PSNR is under its limit.
    """
    deployment = Deployment.open(folder)
    texts = (deployment.folder / EXAMPLES_FILE).read_text(encoding="utf-8").splitlines()[:prompts]
    if GRAPHS in deployment.manifest.files:
        from toprovar.pipeline.graph_verification import verify_graphs

        return verify_graphs(deployment, texts, model)
    comparisons = []
    # Whole generations part at the first bit that rounding flips, so what has a choice is compared in fp32.
    exact = EngineOptions("fp32" if "precision" in BACKENDS.load(deployment.manifest.backend).takes else None)
    with (
        Session.open(folder, source=model, options=exact) as built,
        Session.open(folder, _REFERENCE, model, EngineOptions(reference=True)) as reference,
        Stages() as stages,
    ):
        engines = built.backend.describe(), reference.backend.describe()
        for index, text in enumerate(texts):
            for dense in (True, False):
                actual = built(text, generator=index, dense=dense).images[0]
                expected = reference(text, generator=index, dense=dense).images[0]
                comparisons.append(_compare(text, dense, actual, expected))
                stages.progress("verify", len(comparisons), 2 * len(texts))
    equal = sum(one.equal_bits for one in comparisons) / len(comparisons)
    quality = float(np.mean([min(one.psnr, MOST_PSNR) for one in comparisons]))
    _print(comparisons, f"{engines[0]} against {engines[1]}, same noise")
    if equal < LEAST_EQUAL_BITS or quality < LEAST_PSNR:
        raise VerificationFailed(
            f"{engines[0]} and {engines[1]} agree in {equal:.3%} of the bits at {quality:.1f} dB; "
            f"expected {LEAST_EQUAL_BITS:.1%} and {LEAST_PSNR:.0f} dB",
            "compile the model again with these versions",
        )
    return {
        "engines": list(engines),
        "equal_bits": equal,
        "psnr": quality,
        "comparisons": [dataclasses.asdict(one) | {"psnr": min(one.psnr, MOST_PSNR)} for one in comparisons],
    }


def _compare(prompt: str, dense: bool, actual: GeneratedImage, expected: GeneratedImage) -> Comparison:
    same = sum(int((a == b).sum()) for a, b in zip(actual.bits, expected.bits, strict=True))
    total = sum(bits.size for bits in actual.bits)
    return Comparison(prompt, dense, same / total, psnr(actual.pixels, expected.pixels))


def _print(comparisons: list[Comparison], title: str) -> None:
    table = Table()
    for name in ("prompt", "plan", "equal bits", "PSNR"):
        table.add_column(name, justify="left" if name in ("prompt", "plan") else "right")
    for one in comparisons:
        shown = "equal" if math.isinf(one.psnr) else f"{one.psnr:.1f} dB"
        table.add_row(one.prompt, "dense" if one.dense else "sparse", f"{one.equal_bits:.4%}", shown)
    results().print(title, table, sep="\n")
