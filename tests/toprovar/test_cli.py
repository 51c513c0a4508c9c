"""The command line: exit codes, one line for each error, one JSON object on stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from toprovar import __version__, cli, errors
from toprovar.extensions import COMMANDS


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (errors.UsageError("bad", "do this"), 2, "error: bad; do this"),
        (errors.CheckpointError("bad"), 1, "error: bad"),
        (errors.VerificationFailed("bad"), 1, "error: bad"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (click.BadParameter("Bad value."), 2, "error: invalid value: Bad value; see 'x --help'"),
        (
            ModuleNotFoundError("No module named 'ray'", name="ray"),
            1,
            "error: ray is not installed; expected the extra 'scale'; pip install \"toprovar[scale]\"",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_is_one_line(error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def command() -> None:
        raise error

    assert cli.run(command, "x", []) == code
    assert capsys.readouterr() == ("", f"{line}\n")


@pytest.mark.parametrize("error", [ValueError("bug"), ModuleNotFoundError("no", name="toprovar.x"), OSError("bug")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    @click.command()
    def command() -> None:
        raise error

    with pytest.raises(type(error)):
        cli.run(command, "x", [])


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["compil"], 2, "error: unknown command 'compil'; expected one of "),
        (["compile", "nano"], 2, "error: missing option '-o' / '--output'; see 'toprovar compile --help'"),
        (["compile", "nano", "-o", "x", "--target-flops", "0"], 2, "error: invalid value for '--target-flops': "),
        (["compile", "nano", "-o", "x", "--resolution", "2M"], 2, "error: invalid value for '--resolution': "),
        (["compile", "nano", "-o", "x", "--vae", "none"], 2, "error: invalid value for '--vae': "),
        (["run", "none", "a", "-o", "x.png"], 2, "error: invalid value for 'DIR': "),
        (
            ["run", ".", "a", "-o", "x.png", "--guidance", "3,high"],
            2,
            "error: invalid value for '--guidance': expected ",
        ),
        (["--bogus"], 2, "error: no such option"),
        (["inspect", "/dev/null"], 1, "error: null: not valid JSON at line 1 column 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line(arguments: list[str], code: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.group, "toprovar", arguments) == code
    output, error = capsys.readouterr()
    assert output == ""
    assert error.startswith(line)
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", COMMANDS.names())
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.group, "toprovar", [name, "--help"]) == 0
    output, error = capsys.readouterr()
    assert output.startswith(f"Usage: toprovar {name} ")
    assert "--json" in output
    assert error == ""


def test_the_group_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.group, "toprovar", ["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == [name.replace("_", "-") for name in COMMANDS.names()]
    assert not any(line.endswith("...") for line in listed)
    assert set(COMMANDS.names()) >= {"compile", "run", "inspect", "verify", "eval", "doctor"}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.group, "toprovar", ["--version"]) == 0
    assert capsys.readouterr().out == f"toprovar, version {__version__}\n"


def test_both_programs_share_one_compile_command() -> None:
    scripts = Path(sys.executable).parent
    helps = []
    for program in (["toprovar", "compile"], ["toprovar-compile"]):
        command = [str(scripts / program[0]), *program[1:], "--help"]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        helps.append(result.stdout.replace("toprovar-compile", "toprovar compile"))
    assert helps[0].split() == helps[1].split()


def test_a_closed_pipe_is_silent() -> None:
    script = (
        "import sys, time, click\nfrom toprovar import cli\n"
        "@click.command()\ndef command():\n"
        "    for _ in range(100_000): click.echo('line')\n"
        "cli.run_as_program(command, 'x', [])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


def test_help_imports_no_heavy_package() -> None:
    script = (
        "import sys\nfrom toprovar import cli\n"
        "assert cli.run(cli.group, 'toprovar', ['--help']) == 0\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'numpy', 'scipy', 'polygraphy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_inspect_in_an_ascii_terminal(deployment: Path) -> None:
    program = Path(sys.executable).parent / "toprovar"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([program, "inspect", deployment], capture_output=True, env=environment, check=True)
    assert b"name=sp\\xe4\\u0165" in result.stdout
    assert b"84 " in result.stdout


@pytest.mark.parametrize("kind", ["deployment", "plan"])
def test_inspect_json(kind: str, deployment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = deployment if kind == "deployment" else deployment / "plan.json"
    assert cli.run(cli.group, "toprovar", ["inspect", str(path), "--json"]) == 0
    output, error = capsys.readouterr()
    result = json.loads(output)
    assert error == ""
    assert result["plan"] == json.loads((deployment / "plan.json").read_text())
    assert ("manifest" in result) == (kind == "deployment")


def test_doctor_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(cli.group, "toprovar", ["doctor", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["toprovar"] == __version__
    assert "CPUExecutionProvider" in result["providers"]
    assert {extra["name"] for extra in result["extras"]} == {"compile", "eval", "tensorrt", "t5", "serve", "scale"}
    for extra in result["extras"]:
        assert (extra["remedy"] is None) == (not extra["lacking"])
