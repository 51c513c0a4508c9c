"""Makes the report of a deployment."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from toprovar import __version__
from toprovar.evaluation.report import style
from toprovar.evaluation.report.cautions import cautions
from toprovar.evaluation.report.examples import Progress
from toprovar.evaluation.report.material import Material, OpenSession, gather
from toprovar.evaluation.report.page import render_page
from toprovar.evaluation.report.publish import FIGURES, publish
from toprovar.evaluation.report.section import Section
from toprovar.evaluation.report.sections import (
    cost,
    depth,
    entropy,
    images,
    kept,
    layers,
    precision,
    sensitivity,
    studies,
    summary,
)

__all__ = ["SECTIONS", "WrittenReport", "write_report"]

SECTIONS: tuple[Callable[[Material], Section], ...] = (
    summary.make,
    entropy.make,
    kept.make,
    layers.make,
    depth.make,
    cost.make,
    images.make,
    sensitivity.make,
    precision.make,
    studies.make,
)
"""The page, in order."""


@dataclass(frozen=True)
class WrittenReport:
    """What was written.

    Attributes:
        page: The page's path.
        pictures: Paths of the figures beside it.
        cautions: What the page warns of.
    """

    page: Path
    pictures: tuple[Path, ...]
    cautions: tuple[str, ...]


def write_report(
    folder: Path,
    open_session: OpenSession | None,
    *,
    prompts: int = 3,
    progress: Progress = lambda stage, done, total: None,
) -> WrittenReport:
    """Writes a deployment's report, or writes it anew: report/index.html and report/figures/NAME.png.

    Args:
        folder: The deployment, complete.
        open_session: Opens it on the backend that is to be measured; None draws and measures nothing.
        prompts: How many of the deployment's example prompts to draw, at least one.
        progress: Told (stage, done, total).

    Raises:
        ToProVARError: The folder is no deployment, it cannot run here, or it cannot be written.
    """
    material = gather(folder, open_session, prompts, progress)
    sections = []
    with style.quiet():
        for index, make in enumerate(SECTIONS):
            sections.append(make(material))
            progress("report", index + 1, len(SECTIONS))
    model = material.manifest.model
    title = f"{model.source} at {model.image_width} x {model.image_height} pixels, policy {material.plan.policy}"
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    warned = cautions(material)
    page = render_page(title, f"Report by toprovar {__version__}, {now}", warned, sections)
    pictures = {picture.name: picture.png for section in sections for picture in section.pictures if picture.name}
    written = publish(folder, page, pictures)
    return WrittenReport(written, tuple(written.parent / FIGURES / f"{name}.png" for name in pictures), warned)
