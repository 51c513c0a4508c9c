"""`toprovar inspect`: show what a deployment, a plan or a stats file holds."""

from __future__ import annotations

from pathlib import Path

import click

from toprovar.artefact import Artefact
from toprovar.conform import to_plain
from toprovar.console import print_json, results
from toprovar.deployment import Deployment
from toprovar.errors import ArtefactError
from toprovar.jsonfile import parse, read_text
from toprovar.manifest import Manifest
from toprovar.plan import SparsityPlan
from toprovar.reports import manifest_table, plan_views, stats_table
from toprovar.stats import CalibrationStats

__all__ = ["command"]


@click.command(name="inspect")
@click.argument("path", metavar="PATH", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(path: Path, as_json: bool) -> None:
    """Show a deployment, plan or calibration."""
    console = results()
    if path.is_dir():
        deployment = Deployment.open(path)
        parts: dict[str, Artefact] = {"manifest": deployment.manifest, "plan": deployment.plan}
    else:
        parts = _load_file(path)
    if as_json:
        print_json({name: to_plain(part) for name, part in parts.items()})
        return
    unicode = console.encoding.lower().startswith("utf")
    for part in parts.values():
        if isinstance(part, SparsityPlan):
            console.print(*plan_views(part, unicode), sep="\n")
        elif isinstance(part, CalibrationStats):
            console.print(stats_table(part, unicode))
        elif isinstance(part, Manifest):
            console.print(manifest_table(part))


def _load_file(path: Path) -> dict[str, Artefact]:
    try:
        value = parse(read_text(path))
    except ArtefactError as error:
        raise error.located(path.name) from None
    fields = value if isinstance(value, dict) else {}
    if "policy" in fields:
        return {"plan": SparsityPlan.load(path)}
    if "prompts_sha256" in fields:
        return {"stats": CalibrationStats.load(path)}
    raise ArtefactError(
        "neither a plan nor calibration statistics",
        "for a deployment, give its folder",
        file=path.name,
    )
