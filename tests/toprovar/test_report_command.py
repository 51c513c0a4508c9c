"""`toprovar report`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from toprovar import cli
from toprovar.deployment import Deployment


def run(*arguments: str | Path) -> int:
    return cli.run(cli.group, "toprovar", ["report", *map(str, arguments)])


def test_without_images(deployment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(deployment, "--no-images") == 0
    printed = capsys.readouterr().out
    assert f"{deployment / 'report' / 'index.html'}: 2 figures" in printed
    assert "warning  Quality was not measured" in printed
    Deployment.open(deployment)


def test_json(deployment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(deployment, "--no-images", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["report"] == str(deployment / "report" / "index.html")
    assert [Path(path).name for path in summary["figures"]] == ["layers.png", "cost.png"]
    assert all(Path(path).is_file() for path in summary["figures"])
    assert len(summary["warnings"]) == 1


@pytest.mark.parametrize("prompts", [0, 9, "x"])
def test_a_number_of_prompts_that_cannot_be(
    prompts: object, deployment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(deployment, "--prompts", str(prompts)) == 2
    assert capsys.readouterr().err.startswith("error: invalid value for '--prompts'")


def test_without_example_prompts_no_session_is_needed(deployment: Path) -> None:
    """This deployment could not run: it has no tables."""
    assert run(deployment) == 0


def test_a_folder_that_is_no_deployment(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 1
    assert "holds no manifest.json" in capsys.readouterr().err
