"""Everything that a report is made of, gathered before the first section is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toprovar.deployment import Deployment
from toprovar.errors import ArtefactError
from toprovar.evaluation.report.examples import Examples, Progress, draw_examples
from toprovar.evaluation.report.quality import Quality, read_quality
from toprovar.evaluation.report.section import Missing
from toprovar.evaluation.report.studies import Study, read_studies
from toprovar.generation import EXAMPLES_FILE
from toprovar.manifest import Manifest
from toprovar.plan import SparsityPlan
from toprovar.precision import PRECISION, PrecisionErrors
from toprovar.runtime.session import Session
from toprovar.stats import CalibrationStats

__all__ = ["CALIBRATION", "Material", "OpenSession", "gather"]

CALIBRATION = "report/calibration.json"
"""Where a deployment keeps its calibration's statistics."""

OpenSession = Callable[[], Session]
"""Opens the deployment on the backend that the report is to measure."""


@dataclass(frozen=True, eq=False)
class Material:
    """What sections are made of; each optional part is there, or says in a line why not.

    Attributes:
        manifest: The deployment's table of contents.
        plan: What it computes.
        stats: Its calibration.
        quality: Its marks.
        examples: Images and times.
        precision: What reduced precision does.
        studies: Comparisons with other plans.
    """

    manifest: Manifest
    plan: SparsityPlan
    stats: CalibrationStats | Missing
    quality: Quality | Missing
    examples: Examples | Missing
    precision: PrecisionErrors | Missing
    studies: tuple[Study | Missing, ...]


def gather(folder: Path, open_session: OpenSession | None, prompts: int, progress: Progress) -> Material:
    """Reads a deployment and draws its examples.

    Args:
        folder: The deployment.
        open_session: Opens it; None draws nothing.
        prompts: How many of its example prompts to draw.
        progress: Told how far it is.

    Raises:
        ToProVARError: The folder is no deployment, or it cannot run here.
    """
    # A session reads and checks every file itself.
    deployment = Deployment.open(folder, check_hashes=open_session is None)
    return Material(
        deployment.manifest,
        deployment.plan,
        _stats(deployment),
        read_quality(folder),
        _examples(deployment, open_session, prompts, progress),
        _precision(deployment),
        read_studies(folder),
    )


def _stats(deployment: Deployment) -> CalibrationStats | Missing:
    remedy = "toprovar-compile makes it"
    path = deployment.folder / CALIBRATION
    if not path.is_file():
        return Missing(f"Not shown: there is no {CALIBRATION}; {remedy}.")
    try:
        stats = CalibrationStats.load(path)
    except ArtefactError as error:
        return Missing(f"Not shown: {error}.")
    plan = deployment.plan
    grids = tuple((scale.height, scale.width) for scale in plan.scales)
    if (stats.model_sha256, stats.layers, stats.schedule) != (plan.model_sha256, plan.layers, grids):
        return Missing(f"Not shown: {CALIBRATION} is of another model or schedule; {remedy}.")
    return stats


def _precision(deployment: Deployment) -> PrecisionErrors | Missing:
    remedy = "`toprovar-compile MODEL --backend torch` measures it on an NVIDIA GPU, and with --precision anywhere"
    path = deployment.folder / PRECISION
    if not path.is_file():
        return Missing(f"Not shown: nothing was measured in reduced precision; {remedy}.")
    try:
        measured = PrecisionErrors.load(path)
    except ArtefactError as error:
        return Missing(f"Not shown: {error}.")
    if any(len(errors) != len(deployment.plan.scales) for errors in measured.errors.values()):
        return Missing(f"Not shown: {PRECISION} is of another schedule; {remedy}.")
    return measured


def _examples(
    deployment: Deployment, open_session: OpenSession | None, prompts: int, progress: Progress
) -> Examples | Missing:
    remedy = f"`toprovar report {deployment.folder}` draws and measures"
    if open_session is None:
        return Missing(f"Not shown, since this report was made without images; {remedy}.")
    if deployment.manifest.text.kind == "features":
        return Missing("Not shown: this model takes features instead of prompts.")
    try:
        texts = (deployment.folder / EXAMPLES_FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        texts = []
    texts = [text for text in texts if text.strip()][:prompts]
    if not texts:
        return Missing(f"Not shown: the deployment has no example prompts ({EXAMPLES_FILE}).")
    with open_session() as session:
        return draw_examples(session, texts, progress)
