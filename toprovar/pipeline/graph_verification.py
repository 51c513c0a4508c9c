"""What `toprovar verify` does with a TensorRT deployment: graph by graph and scale by scale against torch."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from toprovar.compiler.tensorrt.verify import TOLERANCES, EngineCheck
from toprovar.console import results
from toprovar.deployment import Deployment
from toprovar.errors import VerificationFailed
from toprovar.jsonfile import write_text
from toprovar.pipeline.engine_checks import check_engine_graphs, engines_of, open_runners
from toprovar.pipeline.verification_page import render_checks
from toprovar.progress import Stages
from toprovar.runtime.backends.base import EngineOptions
from toprovar.runtime.session import Session
from toprovar.runtime.tensorrt.installed import open_library
from toprovar.runtime.tensorrt.preflight import check_engines

__all__ = ["PAGE", "RECORD", "verify_graphs"]

RECORD = "report/graphs.json"
"""Where the comparison lies in a deployment."""

PAGE = "report/graphs.html"
"""The same, to be looked at."""


def verify_graphs(deployment: Deployment, prompts: Sequence[str], model: str | None = None) -> dict[str, Any]:
    """Compares every call of whole generations, each alone, so that no error adds to another's.

    ONNX Runtime runs the graphs with the attention's function body, TensorRT with its plugin, where there are engines.

    Args:
        deployment: compiled for TensorRT.
        prompts: what to draw, dense and sparse.
        model: the checkpoint; the manifest's own if None.

    Returns:
        A summary for printing.

    Raises:
        VerificationFailed: an output is out of tolerance; record and page are written all the same.
        BackendError: there are engines, but they do not fit this machine.
    """
    folder = deployment.folder
    engines = engines_of(folder)
    if engines is not None:
        check_engines(engines, deployment, open_library().this_machine())
    with (
        tempfile.TemporaryDirectory() as scratch,
        Session.open(folder, "torch", model, EngineOptions(reference=True)) as reference,
        Stages() as stages,
    ):
        found = open_runners(folder, Path(scratch), engines)
        checks = check_engine_graphs(folder, reference, prompts, found, stages)
    tolerance = TOLERANCES[found.precision]
    record = {
        "precision": found.precision,
        "tolerance": dataclasses.asdict(tolerance),
        "runners": list(found.runners),
        "checks": [dataclasses.asdict(one) for one in checks],
    }
    write_text(folder / RECORD, json.dumps(record, indent=1, allow_nan=False))
    write_text(folder / PAGE, render_checks(folder.resolve().name, found.precision, tolerance, checks))
    _print(checks, found.precision)
    failed = [one for one in checks if one.failures]
    if failed:
        first = failed[0]
        where = first.graph if first.scale is None else f"{first.graph} at scale {first.scale}"
        raise VerificationFailed(
            f"{len(failed)} of {len(checks)} graph calls differ from torch, first {where} in {first.runner}: "
            f"{', '.join(first.failures)}",
            f"{folder / PAGE} has all of them",
        )
    return {
        "precision": found.precision,
        "runners": list(found.runners),
        "checks": len(checks),
        "least_equal_bits": min((one.equal_bits for one in checks if one.equal_bits is not None), default=None),
        "worst_relative": max((output.relative for one in checks for output in one.outputs), default=None),
        "page": str(folder / PAGE),
    }


def _print(checks: Sequence[EngineCheck], precision: str) -> None:
    table = Table(title=f"graphs in {precision} against the model's modules in fp32, call by call")
    for name in ("runner", "graph", "calls", "equal bits", "least cosine", "least PSNR", "failed"):
        table.add_column(name, justify="left" if name in ("runner", "graph") else "right")
    for runner, graph in dict.fromkeys((one.runner, one.graph) for one in checks):
        own = [one for one in checks if (one.runner, one.graph) == (runner, graph)]
        bits = [one.equal_bits for one in own if one.equal_bits is not None]
        outputs = [output for one in own for output in one.outputs]
        cosine = [output.cosine for output in outputs if output.cosine is not None]
        psnr = [output.psnr for output in outputs if output.psnr is not None]
        table.add_row(
            runner,
            graph,
            str(len(own)),
            f"{min(bits):.3%}" if bits else "",
            f"{min(cosine):.6f}" if cosine else "",
            f"{min(psnr):.1f} dB" if psnr else "equal",
            str(sum(bool(one.failures) for one in own)),
        )
    results().print(table)
