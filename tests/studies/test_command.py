"""`toprovar study` lists, runs and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from toprovar.commands.study import command
from toprovar.extensions import STUDIES
from toprovar.studies.catalogue import titles

from ..tiny_nano import as_nano


def test_titles_are_those_of_the_studies() -> None:
    assert titles() == {name: STUDIES.load(name).title for name in STUDIES.names()}
    assert all(titles().values())


def test_help_lists_them_without_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from toprovar.commands.study import command; "
        "print(CliRunner().invoke(command, ['--help']).output); "
        "sys.exit(bool({'torch', 'matplotlib', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    for name, title in titles().items():
        assert name in result.stdout
        assert title.split()[0] in result.stdout
    assert "--resolution" in result.stdout


def test_json_is_one_object_and_files_are_written(weights: Path, tmp_path: Path) -> None:
    arguments = ["components", "--resolution", "0.06M", "--backend", "torch", "--limit", "1", "-o", str(tmp_path)]
    with as_nano(weights):
        result = CliRunner().invoke(command, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made == json.loads((tmp_path / "components.json").read_text())
    assert made["command"] == "toprovar study components --resolution 0.06M --limit 1 --backend torch"
    assert made["caption"].endswith("Few prompts: an attempt, whose intervals are narrower than they should be.")
    assert (tmp_path / "components.png").read_bytes().startswith(b"\x89PNG")
