"""`toprovar export-triton`: a repository as Triton wants it, whole or not at all."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from google.protobuf import text_format

from toprovar import cli
from toprovar.deployment import MANIFEST, Deployment
from toprovar.manifest import Manifest
from toprovar.triton_repository import MODEL, render_config

from .model_config import parse


def run(*arguments: str | Path) -> int:
    return cli.run(cli.group, "toprovar", ["export-triton", *map(str, arguments)])


def test_layout(deployment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "repository"
    (deployment / "report").mkdir()
    (deployment / "report" / "index.html").write_text("not listed")
    assert run(deployment, "-o", repository) == 0
    model = repository / "nano"
    assert capsys.readouterr().out == f"{model}: tritonserver --model-repository {repository}\n"
    files = {path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file()}
    copied = {f"nano/1/deployment/{name}" for name in (MANIFEST, *Manifest.load(deployment / MANIFEST).files)}
    assert files == {"nano/config.pbtxt", "nano/1/model.py"} | copied
    Deployment.open(model / "1" / "deployment")
    assert (model / "1" / "model.py").read_text() == MODEL


def test_the_configuration_has_the_fields_of_the_published_schema(deployment: Path, tmp_path: Path) -> None:
    assert run(deployment, "-o", tmp_path / "r", "--name", "tiny.model-1", "--batch", 4) == 0
    config = parse((tmp_path / "r" / "tiny.model-1" / "config.pbtxt").read_text())
    # Triton wants the folder's name here.
    assert config.name == "tiny.model-1"
    assert (config.backend, config.max_batch_size) == ("python", 0)
    kinds = {
        value.number: value.name for value in config.input[0].DESCRIPTOR.fields_by_name["data_type"].enum_type.values
    }
    inputs = {one.name: (kinds[one.data_type], list(one.dims), one.optional) for one in config.input}
    assert inputs == {
        "prompt": ("TYPE_STRING", [-1], False),
        "negative_prompt": ("TYPE_STRING", [1], True),
        "seed": ("TYPE_INT64", [-1], True),
        "guidance": ("TYPE_FP32", [-1], True),
    }
    outputs = {one.name: (kinds[one.data_type], list(one.dims)) for one in config.output}
    assert outputs == {"image": ("TYPE_UINT8", [-1, 24, 32, 3]), "depth": ("TYPE_INT32", [-1])}
    assert [(group.kind, group.count) for group in config.instance_group] == [(2, 1)]
    assert {one.key: one.value.string_value for one in config.parameters} == {"backend": "onnxruntime", "batch": "4"}


def test_the_schema_is_strict(manifest: Manifest) -> None:
    text = render_config("m", manifest.model, 3, "onnxruntime", 1)
    parse(text)
    for wrong in ("max_batchsize: 0", 'input { name: "x" datatype: TYPE_FP32 }', "instance_group { kind: KIND_TPU }"):
        with pytest.raises(text_format.ParseError):
            parse(f"{text}\n{wrong}\n")


def test_an_engine_of_its_own_is_not_told_where_to_run(manifest: Manifest) -> None:
    assert "kind: KIND_MODEL" in render_config("m", manifest.model, 3, "torch", 1)


def test_the_model_is_python() -> None:
    (made,) = (node for node in ast.parse(MODEL).body if isinstance(node, ast.ClassDef))
    assert made.name == "TritonPythonModel"
    assert [node.name for node in made.body if isinstance(node, ast.FunctionDef)] == [
        "initialize",
        "execute",
        "finalize",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--name", "a/b"], 2, "model name 'a/b'; expected letters"),
        (["--name", "../x"], 2, "model name '../x'; expected letters"),
        (["--backend", "cpu"], 2, "unknown backend 'cpu'; expected one of"),
        (["--backend", "tensorrt"], 1, "holds no TensorRT engines"),
        (["--batch", "0"], 2, "invalid value for '--batch'"),
    ],
)
def test_what_cannot_be_exported(
    arguments: list[str], code: int, message: str, deployment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(deployment, "-o", tmp_path / "r", *arguments) == code
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_a_model_is_never_replaced(deployment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r" / "nano").mkdir(parents=True)
    assert run(deployment, "-o", tmp_path / "r") == 2
    assert "exists; expected a new model" in capsys.readouterr().err


def test_nothing_is_left_of_a_failure(deployment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("toprovar.triton_repository.shutil.copyfile", full)
    assert run(deployment, "-o", tmp_path / "r") == 1
    assert list((tmp_path / "r").iterdir()) == []


def test_json(deployment: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(deployment, "-o", tmp_path / "r", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"model": str(tmp_path / "r" / "nano"), "name": "nano"}
