"""A model in, a verified deployment folder out."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toprovar import __version__
from toprovar.calibration.prompts import GENERAL_PROMPTS, read_prompts
from toprovar.compiler.graph_check import GraphCheck
from toprovar.constants import save_constants
from toprovar.deployment_writer import DeploymentWriter
from toprovar.errors import VerificationFailed
from toprovar.extensions import BUILDS, POLICIES
from toprovar.generation import EXAMPLES_FILE
from toprovar.jsonfile import write_text
from toprovar.manifest import Manifest, Precision
from toprovar.pipeline.calibrating import calibrated
from toprovar.pipeline.parameters import with_parameters
from toprovar.pipeline.subject import Subject
from toprovar.pipeline.targets import Planner, SuiteJudge, Target, find_plan
from toprovar.plan import SparsityPlan
from toprovar.progress import Stages
from toprovar.runtime.session import Session
from toprovar.stats import CalibrationStats

__all__ = ["compile_model"]

_VERIFIED_PROMPTS = 1
_EXAMPLES = 8


def compile_model(
    model: str,
    output: Path,
    *,
    vae: Path | None = None,
    text_encoder: Path | None = None,
    prompts: Path | None = None,
    backend: str = "onnxruntime",
    precision: Precision | None = None,
    portable: bool = False,
    policy: str = "toprovar",
    parameters: Mapping[str, str] | None = None,
    target: Target = Target(),  # noqa: B008  frozen
    aspect_ratio: str = "1:1",
    resolution: str | None = None,
    cfg_insertion_layers: Sequence[int] = (0,),
    seed: int = 0,
    force: bool = False,
    verify: bool = True,
    report: bool = True,
) -> dict[str, Any]:
    """Calibrates, plans, exports, builds and verifies.

    Args:
        model: ``nano``, a checkpoint or a folder of shards.
        output: deployment folder to write; appears complete or not at all.
        vae: checkpoint of the image tokenizer, where it does not lie beside the model.
        text_encoder: folder of the text encoder, where the model has none of its own.
        prompts: calibration prompts, one a line.
        backend: where it will run.
        precision: what it computes in unless a call says otherwise; None leaves it to the backend.
        portable: leave out what holds for this machine's GPU alone, such as engines.
        policy: what decides the plan.
        parameters: of the policy, by name, as a user writes them.
        target: what the plan is to reach.
        aspect_ratio: width:height.
        resolution: pixels, by Infinity's names.
        cfg_insertion_layers: where guidance is applied: 0 for the logits, -n for a layer.
        seed: of the calibration's noise.
        force: replace an existing deployment.
        verify: compare what was built with the model.
        report: draw examples and write the report.

    Returns:
        A summary for printing.

    Raises:
        ToProVARError: anything that the user can mend.
    """
    if report:  # what it needs is missed before the work, not after
        from toprovar.evaluation.report.write import write_report
    build_for = BUILDS.load(backend)
    build_for.check(backend, precision, portable)
    decide = with_parameters(POLICIES.load(policy), policy, parameters or {})
    judge = SuiteJudge.of(model) if target.quality_drop is not None else None
    with Stages() as stages:
        with DeploymentWriter(output, force) as writer:
            with stages.stage("load"):
                subject = Subject.open(model, vae, text_encoder, aspect_ratio, resolution, cfg_insertion_layers)
            own = subject.loaded.prompts or GENERAL_PROMPTS
            texts = read_prompts(prompts) if prompts else own
            report_folder = writer.folder / "report"
            for folder in (writer.folder / "text", report_folder):
                folder.mkdir()
            table = report_folder / "calibration.safetensors"
            # Before the calibration, which compiles kernels that the deployment's runtime needs, too.
            build = build_for(subject, writer.folder / "builds", stages, precision, portable)
            measured = calibrated(subject, texts, seed, stages, table, decide.probes)
            for name, content in subject.text.files().items():
                (writer.folder / "text" / name).write_bytes(content)
            (writer.folder / EXAMPLES_FILE).write_text("\n".join(own[:_EXAMPLES]), encoding="utf-8")
            found = find_plan(Planner(decide, measured.stats, build, texts), target, judge)
            written = build.write(found.plan, writer.folder, texts)
            constants = subject.constants(found.plan.ranking, found.plan.restoration)
            save_constants(writer.folder / "graphs", constants)
            checks = []
            if verify:
                checks = build.verify(found.plan, writer.folder, texts[:_VERIFIED_PROMPTS])
                _require_passed(checks, report_folder / "verify.json")
            found.plan.save(writer.folder / "plan.json")
            measured.stats.save(report_folder / "calibration.json")
            writer.manifest = Manifest(
                toprovar_version=__version__,
                backend=backend,
                precision=written.precision,
                model=subject.record,
                sampling=subject.loaded.sampling(len(subject.grids)),
                text=subject.loaded.text_record(),
                gpu=written.gpu,
                versions=dict(_versions(build_for.packages)) | dict(written.versions),
                files={},
            )
        measured.journal.clear()
        if report:
            draw = (lambda: Session.open(output, backend)) if build.runs_here else None
            write_report(output, draw, progress=stages.progress)
    return _summary(output, subject, found.plan, measured.stats, checks, stages) | {
        "measured": found.measured,
        "runs_here": build.runs_here,
    }


def _versions(packages: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Those of the packages that are installed: Triton, for one, is not to be had everywhere."""
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def _require_passed(checks: Sequence[GraphCheck], report: Path) -> None:
    """Writes how the graphs compared.

    Raises:
        VerificationFailed: an output is out of tolerance.
    """
    write_text(report, json.dumps([dataclasses.asdict(one) for one in checks], indent=1))
    failed = [one for one in checks if not one.passed]
    if failed:
        first = failed[0]
        where = first.graph if first.scale is None else f"{first.graph} at scale {first.scale}"
        raise VerificationFailed(
            f"{len(failed)} of {len(checks)} graph calls differ from torch, first {where}: {', '.join(first.failures)}",
            "report this with the checkpoint's name; --no-verify writes the deployment all the same",
        )


def _summary(
    output: Path,
    subject: Subject,
    plan: SparsityPlan,
    stats: CalibrationStats,
    checks: Sequence[GraphCheck],
    stages: Stages,
) -> dict[str, Any]:
    return {
        "deployment": str(output),
        "model": subject.record.source,
        "image": [subject.record.image_height, subject.record.image_width],
        "policy": plan.policy,
        "flops_at_earliest_depth": plan.cost.ratio,
        "expected_flops": plan.parameters.get("expected_flops", plan.cost.ratio),
        "calibration_prompts": len(stats.prompts),
        "verified_calls": len(checks),
        "worst_error": max((check.worst for check in checks), default=None),
        "least_equal_bits": min((c.equal_bits for c in checks if c.equal_bits is not None), default=None),
        "seconds": {name: round(value, 2) for name, value in stages.seconds.items()},
    }
