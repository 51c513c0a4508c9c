"""The main job: a model in, a verified deployment folder out.

Calibration, compiler and runtime do not know one another; this file introduces them.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from toprovar import __version__
from toprovar.calibration.calibrate import calibrate
from toprovar.calibration.policies.dense import dense_plan
from toprovar.calibration.policy import Task
from toprovar.calibration.prompts import GENERAL_PROMPTS, read_prompts
from toprovar.calibration.recorder import EntropyRecorder
from toprovar.compiler.build import build_for_onnxruntime
from toprovar.compiler.export_onnx import export_graph
from toprovar.compiler.graph import Graph
from toprovar.compiler.modules import build_modules
from toprovar.compiler.trace import trace_graph
from toprovar.compiler.verify import Case, GraphCheck, GraphVerifier
from toprovar.compiler.weights import save_graphs
from toprovar.constants import save_constants
from toprovar.deployment_writer import DeploymentWriter
from toprovar.errors import UsageError, VerificationFailed
from toprovar.extensions import BACKENDS, POLICIES
from toprovar.generation import EXAMPLES_FILE
from toprovar.jsonfile import write_text
from toprovar.manifest import Manifest, ModelRecord
from toprovar.models.geometry import scale_constants
from toprovar.models.loader import LoadedModel, guidance_layers, load_model
from toprovar.models.schedules import Schedule
from toprovar.plan import Ranking, SparsityPlan
from toprovar.progress import Stages
from toprovar.runtime.backends.torch import TorchBackend
from toprovar.runtime.session import Session
from toprovar.stats import CalibrationStats

__all__ = ["compile_model", "constants_of"]

_VERIFIED_PROMPTS = 1
_EXAMPLES = 8
_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


def compile_model(
    model: str,
    output: Path,
    *,
    vae: Path | None = None,
    text_encoder: Path | None = None,
    prompts: Path | None = None,
    backend: str = "onnxruntime",
    policy: str = "toprovar",
    target_flops: float = 0.55,
    aspect_ratio: str = "1:1",
    resolution: str | None = None,
    cfg_insertion_layers: Sequence[int] = (0,),
    seed: int = 0,
    force: bool = False,
    verify: bool = True,
) -> dict[str, Any]:
    """Calibrates, plans, exports, builds and verifies.

    Args:
        model: ``nano``, a checkpoint or a folder of shards.
        output: deployment folder to write; appears complete or not at all.
        vae: checkpoint of the image tokenizer, where it does not lie beside the model.
        text_encoder: folder of the text encoder, where the model has none of its own.
        prompts: calibration prompts, one a line.
        backend: where it will run.
        policy: what decides the plan.
        target_flops: transformer FLOPs to aim at, as a share of dense.
        aspect_ratio: width:height.
        resolution: pixels, by Infinity's names.
        cfg_insertion_layers: where guidance is applied: 0 for the logits, -n for a layer.
        seed: of the calibration's noise.
        force: replace an existing deployment.
        verify: compare what was built with the model.

    Returns:
        A summary for printing.

    Raises:
        ToProVARError: anything that the user can mend.
    """
    if backend != "onnxruntime":
        raise UsageError(
            f"cannot compile for {backend!r}; expected onnxruntime, of the backends {', '.join(BACKENDS.names())}",
            "the torch backend runs any deployment: toprovar run DIR --backend torch",
        )
    decide = POLICIES.load(policy)
    with DeploymentWriter(output, force) as writer, Stages() as stages:
        with stages.stage("load"):
            loaded = load_model(model, vae, text_encoder)
        if loaded.text is None:
            raise UsageError(
                "calibration reads prompts, and this checkpoint brings no text encoder",
                "give the folder of flan-t5-xl with --text-encoder",
            )
        grids = loaded.schedule(aspect_ratio, resolution)
        record = loaded.record(grids, guidance_layers(cfg_insertion_layers, loaded.backbone.config.depth))
        own = loaded.prompts or GENERAL_PROMPTS
        texts = read_prompts(prompts) if prompts else own
        lengths = [len(loaded.text.token_ids(text)) for text in texts]
        task = Task(record, target_flops, round(sum(lengths) / max(len(lengths), 1)))
        stats = _calibrate(loaded, record, grids, texts, seed, task, stages)
        plan: SparsityPlan = decide(stats, task)
        graphs_folder = writer.folder / "graphs"
        for folder in (graphs_folder, writer.folder / "text", writer.folder / "report"):
            folder.mkdir()
        constants = constants_of(loaded, grids, plan.ranking)
        save_constants(graphs_folder, constants)
        for name, content in loaded.text.files().items():
            (writer.folder / "text" / name).write_bytes(content)
        (writer.folder / EXAMPLES_FILE).write_text("\n".join(own[:_EXAMPLES]), encoding="utf-8")
        graphs = _export(loaded, record, plan, stages)
        with stages.stage("save"):
            save_graphs(graphs, graphs_folder)
        with stages.stage("build"):
            versions = build_for_onnxruntime(graphs_folder, [graph.name for graph in graphs])
        checks = []
        if verify:
            checks = _verify(loaded, record, grids, constants, plan, texts[:_VERIFIED_PROMPTS], graphs_folder, stages)
        plan.save(writer.folder / "plan.json")
        stats.save(writer.folder / "report" / "calibration.json")
        writer.manifest = Manifest(
            toprovar_version=__version__,
            backend=backend,
            model=record,
            sampling=loaded.sampling(len(grids)),
            text=loaded.text_record(),
            gpu=None,
            versions={name: importlib.metadata.version(name) for name in _PACKAGES} | versions,
            files={},
        )
    return _summary(output, record, plan, stats, checks, stages)


def constants_of(loaded: LoadedModel, grids: Schedule, ranking: Ranking) -> dict[str, np.ndarray]:
    """The tables that a backend needs beside graphs or weights (`toprovar.runtime.backends.base.Backend`)."""
    constants = scale_constants(grids, loaded.backbone.config.head_dim, loaded.latent_grids(grids))
    constants["unconditional"] = loaded.backbone.cfg_uncond.detach().float().numpy()
    empty = np.zeros((len(grids), 0, loaded.backbone.config.heads), np.float32)
    constants["entropy_mean"] = np.asarray(ranking.mean, np.float32) if ranking.observers else empty
    constants["entropy_deviation"] = np.asarray(ranking.deviation, np.float32) if ranking.observers else empty
    return constants


def _calibrate(
    loaded: LoadedModel,
    record: ModelRecord,
    grids: Schedule,
    prompts: Sequence[str],
    seed: int,
    task: Task,
    stages: Stages,
) -> CalibrationStats:
    recorder = EntropyRecorder(grids, record.layers, record.heads)
    none = Ranking("none")
    plan = dense_plan(grids, task)
    sampling = loaded.sampling(len(grids))

    def session(backend: TorchBackend) -> Session:
        return Session(backend, plan, sampling, loaded.text.token_ids if loaded.text else None)

    watched = session(TorchBackend(record, grids, constants_of(loaded, grids, none), loaded, observer=recorder))

    def observe(ranking: Ranking) -> Callable[[str, int], Sequence[np.ndarray]]:
        constants = constants_of(loaded, grids, ranking)
        return session(TorchBackend(record, grids, constants, loaded, ranking.observers)).observe

    return calibrate(
        record,
        grids,
        prompts,
        seed,
        recorder,
        lambda prompt, own: watched(prompt, generator=own),
        observe,
        stages.progress,
    )


def _export(loaded: LoadedModel, record: ModelRecord, plan: SparsityPlan, stages: Stages) -> list[Graph]:
    observers = plan.ranking.observers
    modules = build_modules(loaded, record, observers)
    graphs = []
    for index, (name, (module, contract)) in enumerate(modules.items()):
        channels = loaded.backbone.config.text_channels
        traced = trace_graph(name, module, contract, record, len(observers), channels)
        graphs.append(export_graph(traced, plan))
        stages.progress("export", index + 1, len(modules))
    return graphs


def _verify(
    loaded: LoadedModel,
    record: ModelRecord,
    grids: Schedule,
    constants: dict[str, np.ndarray],
    plan: SparsityPlan,
    prompts: Sequence[str],
    folder: Path,
    stages: Stages,
) -> list[GraphCheck]:
    """Replays a dense and a sparse generation graph by graph.

    Raises:
        VerificationFailed: an output is out of tolerance.
    """
    verifier = GraphVerifier(folder, build_modules(loaded, record, plan.ranking.observers))
    total = 2 * len(prompts) * (len(grids) + 3)  # text, prompt, scales, decode; sparse and dense
    checks: list[GraphCheck] = []

    def check(graph: str, scale: int | None, feed: dict[str, np.ndarray]) -> None:
        checks.append(verifier.check(Case(graph, scale, feed)))
        stages.progress("verify", len(checks), total)

    backend = TorchBackend(record, grids, constants, loaded, plan.ranking.observers)
    backend.tap = check
    session = Session(backend, plan, loaded.sampling(len(grids)), loaded.text.token_ids if loaded.text else None)
    for prompt in prompts:
        session(prompt)
        session(prompt, dense=True)
    report = [dataclasses.asdict(one) for one in checks]
    write_text(folder.parent / "report" / "verify.json", json.dumps(report, indent=1))
    failed = [one for one in checks if not one.passed]
    if failed:
        first = failed[0]
        where = first.graph if first.scale is None else f"{first.graph} at scale {first.scale}"
        raise VerificationFailed(
            f"{len(failed)} of {len(checks)} graph calls differ from torch, first {where}: {', '.join(first.failures)}",
            "report this with the checkpoint's name; --no-verify writes the deployment all the same",
        )
    return checks


def _summary(
    output: Path,
    record: ModelRecord,
    plan: SparsityPlan,
    stats: CalibrationStats,
    checks: Sequence[GraphCheck],
    stages: Stages,
) -> dict[str, Any]:
    return {
        "deployment": str(output),
        "model": record.source,
        "image": [record.image_height, record.image_width],
        "policy": plan.policy,
        "flops_at_earliest_depth": plan.cost.ratio,
        "expected_flops": plan.parameters.get("expected_flops", plan.cost.ratio),
        "calibration_prompts": len(stats.prompts),
        "verified_calls": len(checks),
        "worst_error": max((check.worst for check in checks), default=None),
        "least_equal_bits": min((c.equal_bits for c in checks if c.equal_bits is not None), default=None),
        "seconds": {name: round(value, 2) for name, value in stages.seconds.items()},
    }
