"""`toprovar doctor`: what this machine can do, and how to mend what it cannot."""

from __future__ import annotations

import click
from rich.table import Table

from toprovar.conform import to_plain
from toprovar.console import print_json, results
from toprovar.diagnosis import Diagnosis, diagnose

__all__ = ["command"]


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def command(as_json: bool) -> None:
    """Show what this machine can do.

    Versions, extras, devices and backends, and how to mend what is missing.
    """
    diagnosis = diagnose()
    if as_json:
        print_json(to_plain(diagnosis))
        return
    console = results()
    for table in _tables(diagnosis):
        console.print(table)


def _tables(diagnosis: Diagnosis) -> list[Table]:
    memory = diagnosis.memory_bytes
    machine = _table("machine")
    machine.add_row("toprovar", diagnosis.toprovar)
    machine.add_row("python", diagnosis.python)
    machine.add_row("platform", diagnosis.platform)
    machine.add_row("cores", str(diagnosis.cores))
    machine.add_row("memory", "unknown" if memory is None else f"{memory / 2**30:.0f} GiB")
    machine.add_row("GPU", "\n".join(diagnosis.gpus) or "none that torch sees")
    machine.add_row("ONNX Runtime", ", ".join(diagnosis.providers))
    packages = _table("packages", "package", "installed", "expected")
    for package in diagnosis.packages:
        style = None if package.suffices else "yellow"
        packages.add_row(package.name, package.installed or "-", f">= {package.least}", style=style)
    extras = _table("extras", "extra", "lacks", "remedy")
    for extra in diagnosis.extras:
        extras.add_row(extra.name, ", ".join(extra.lacking) or "nothing", extra.remedy or "")
    backends = _table("backends", "backend", "works", "detail", "remedy")
    for ability in diagnosis.backends:
        works = "yes" if ability.works else "no"
        backends.add_row(ability.backend, works, ability.detail, ability.remedy or "")
    return [machine, packages, extras, backends]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=bool(columns))
    for column in columns:
        table.add_column(column)
    return table
