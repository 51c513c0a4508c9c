"""Draws pictures by the graphs of a TensorRT deployment, run by ONNX Runtime, beside those of the model's own modules.

    toprovar-compile nano --backend tensorrt --portable --precision fp8 -o build/nano-fp8
    python benchmarks/tensorrt_pictures.py build/nano-fp8 --prompts 24 --output pictures.json

Whole generations with the same noise, dense and sparse: unlike `toprovar verify`, which compares call by call, a bit
that rounding flips is read by everything after it. Where the model is nano, ShapeEval says which pictures show what
their prompts ask for. Needs no GPU and no TensorRT.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from toprovar.compiler.tensorrt.contract import read_graph_file
from toprovar.compiler.tensorrt.onnx_graphs import OnnxGraphs
from toprovar.compiler.tensorrt.translate import engine_feed
from toprovar.constants import load_constants
from toprovar.deployment import Deployment
from toprovar.errors import ToProVARError
from toprovar.evaluation.fidelity import psnr
from toprovar.evaluation.suites.shapes import PROMPTS, score
from toprovar.generation import EXAMPLES_FILE
from toprovar.progress import Stages
from toprovar.runtime.backends.base import Backend, Controls, EngineOptions, State, StepResult
from toprovar.runtime.session import GeneratedImage, Session

__all__ = ["main"]

_TO_HEADS = (1, 2, 0, 3)
_RANKS = ("entropy", "next_prior")


class _GraphBackend(Backend):
    """Runs the graphs of a TensorRT deployment on a CPU."""

    name = "graphs for TensorRT"

    def __init__(self, deployment: Deployment, scratch: Path) -> None:
        grids = [(scale.height, scale.width) for scale in deployment.plan.scales]
        folder = deployment.folder / "graphs"
        super().__init__(deployment.manifest.model, grids, load_constants(folder), deployment.plan.pruning)
        step = read_graph_file(folder / "step.onnx")
        self.products, self._contract = step.products, step.contract
        self._graphs = OnnxGraphs(folder, step.products, scratch)

    def encode_text_impl(self, token_ids: np.ndarray) -> np.ndarray:
        return self._graphs("text", None, {"token_ids": token_ids})["features"]

    def prepare_impl(self, features: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        return self._graphs("prompt", None, {"features": features, "mask": mask})

    def step_impl(self, state: State, controls: Controls) -> StepResult:
        given = {**state.tensors, **self.step_inputs(state, controls)}
        known = {name: value for name, value in given.items() if name in self._contract.inputs}
        known["carry_rows"], known["carry_columns"] = given["carry_rows"], given["carry_columns"]
        outputs = self._graphs("step", state.scale, engine_feed(known, self._contract, len(self.pruning.observers)))
        outputs["bits"] = outputs["bits"].astype(np.uint8)
        outputs |= self._presents(outputs, given)
        if controls.kept is None:  # what the dense graph does not give
            outputs = {name: value for name, value in outputs.items() if name not in _RANKS}
        return self.collect(state, controls, outputs)

    def decode_impl(self, summed: Any) -> np.ndarray:
        return self._graphs("decode", None, {"summed": summed})["image"]

    def from_host_impl(self, array: np.ndarray) -> Any:
        return array

    def to_host_impl(self, tensor: Any) -> np.ndarray:
        return np.asarray(tensor)

    def take_impl(self, tensor: Any, rows: list[int]) -> Any:
        return tensor[rows]

    @staticmethod
    def _presents(outputs: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Whole caches, from the new tokens."""
        new = {name: value for name, value in outputs.items() if name.startswith(("new_key.", "new_value."))}
        return {
            name.replace("new_", "present_"): np.concatenate(
                [given[name.replace("new_", "past_")], value.transpose(_TO_HEADS)], axis=2
            )
            for name, value in new.items()
        }


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--prompts", "count", type=click.IntRange(min=1), default=8, show_default=True, help="Pictures a plan.")
@click.option("--output", type=click.Path(path_type=Path), help="JSON report.")
def main(folder: Path, count: int, output: Path | None) -> None:
    """Draw and compare."""
    deployment = _opened(folder)
    nano = deployment.manifest.model.source == "nano"
    shapes = PROMPTS[:: max(len(PROMPTS) // count, 1)][:count]
    own = (folder / EXAMPLES_FILE).read_text(encoding="utf-8").splitlines()[:count]
    texts = [one.text for one in shapes] if nano else own
    report: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        Session.open(folder, "torch", options=EngineOptions(reference=True)) as reference,
        Stages() as stages,
    ):
        backend = _GraphBackend(deployment, Path(scratch))
        drawn = Session(backend, deployment.plan, reference.sampling, reference.tokenize)
        report["products"] = backend.products
        for kind in ("dense", "sparse"):
            pairs = []
            for index, text in enumerate(texts):
                both = (
                    session(text, generator=index, dense=kind == "dense").images[0] for session in (drawn, reference)
                )
                pairs.append(tuple(both))
                stages.progress(kind, index + 1, len(texts))
            report[kind] = _compare(pairs)
            if nano:
                names = ("graphs", "modules")
                columns = ([one.picture for one in column] for column in zip(*pairs, strict=True))
                report[kind]["shown"] = {
                    name: score(shapes, images).mean for name, images in zip(names, columns, strict=True)
                }
    _tell(report)
    if output is not None:
        output.write_text(json.dumps(report, indent=1))


def _opened(folder: Path) -> Deployment:
    try:
        deployment = Deployment.open(folder)
    except ToProVARError as error:
        raise click.UsageError(str(error)) from error
    if deployment.manifest.backend != "tensorrt":
        raise click.UsageError(
            f"{folder} was compiled for {deployment.manifest.backend}; expected graphs for TensorRT, of "
            "toprovar-compile --backend tensorrt --portable"
        )
    return deployment


def _compare(pairs: list[tuple[GeneratedImage, ...]]) -> dict[str, Any]:
    bits = [
        float(np.concatenate([(a == b).ravel() for a, b in zip(one.bits, other.bits, strict=True)]).mean())
        for one, other in pairs
    ]
    quality = [min(psnr(one.pixels, other.pixels), 100.0) for one, other in pairs]
    return {"pictures": len(pairs), "equal_bits": bits, "psnr": quality}


def _tell(report: dict[str, Any]) -> None:
    table = Table(title=f"pictures by graphs in {report['products']} beside the model's modules in fp32")
    for name in ("plan", "pictures", "equal bits", "least", "median PSNR", "least", "ShapeEval"):
        table.add_column(name, justify="left" if name == "plan" else "right")
    for kind in ("dense", "sparse"):
        one = report[kind]
        shown = one.get("shown")
        table.add_row(
            kind,
            str(one["pictures"]),
            f"{np.mean(one['equal_bits']):.2%}",
            f"{min(one['equal_bits']):.2%}",
            f"{np.median(one['psnr']):.1f} dB",
            f"{min(one['psnr']):.1f} dB",
            "" if shown is None else f"{shown['graphs']:.3f} (modules {shown['modules']:.3f})",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
