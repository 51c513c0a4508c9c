"""From a checkpoint to a deployment, and what is refused on the way."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from toprovar.calibration.policies.toprovar import POLICY
from toprovar.calibration.policy import Task
from toprovar.calibration.prompt_table import PromptTable
from toprovar.cli import group, run
from toprovar.deployment import Deployment
from toprovar.runtime.session import Session
from toprovar.stats import CalibrationStats

from ..tiny_nano import LAYERS, PROMPTS, TARGET, Compiled, as_nano


def compile_command(weights: Path, *arguments: str | Path) -> int:
    with as_nano(weights):
        return run(group, "toprovar", ["compile", *map(str, arguments)])


def test_the_summary(compiled: Compiled) -> None:
    summary = compiled.summary
    assert summary["deployment"] == str(compiled.folder)
    assert (summary["model"], summary["policy"], summary["image"]) == ("nano", "toprovar", [32, 32])
    assert 0.6 < summary["expected_flops"] <= TARGET
    assert 0 < summary["flops_at_earliest_depth"] <= summary["expected_flops"]
    assert summary["calibration_prompts"] == len(PROMPTS)
    # text and prompt once, seven scales and a decoder, for a sparse and for a dense image
    assert summary["verified_calls"] == 2 * 10
    assert summary["worst_error"] < 1e-3
    assert summary["least_equal_bits"] >= 0.999
    assert list(summary["seconds"]) == ["load", "calibrate", "observe", "export", "save", "build", "verify"]
    assert all(seconds >= 0 for seconds in summary["seconds"].values())


def test_what_is_on_the_disk_opens(compiled: Compiled) -> None:
    deployment = Deployment.open(compiled.folder)
    manifest, plan = deployment.manifest, deployment.plan
    assert (manifest.backend, manifest.model.source, manifest.text.kind) == ("onnxruntime", "nano", "words")
    assert manifest.model.guidance_layers == (LAYERS,)
    assert len(manifest.sampling.guidance) == len(plan.scales) == 7
    assert {"torch", "onnxruntime", "numpy"} <= set(manifest.versions)
    assert {"plan.json", "graphs/weights.bin", "report/calibration.json", "report/verify.json"} <= set(manifest.files)
    stats = CalibrationStats.load(compiled.folder / "report" / "calibration.json")
    assert tuple(prompt.prompt for prompt in stats.prompts) == PROMPTS
    # the plan follows from the statistics alone
    lengths = [len(prompt.split()) for prompt in PROMPTS]
    assert plan == POLICY(stats, Task(manifest.model, TARGET, round(sum(lengths) / len(lengths))))
    # every token's entropy was counted once
    for scale in stats.scales:
        for layer in scale.layers:
            assert {sum(counts) for counts in layer.histogram} == {scale.height * scale.width * len(PROMPTS)}
    assert list(stats.seconds) == ["entropy", "generation", "observation", "principal components"]
    assert all(seconds > 0 for seconds in stats.seconds.values())
    table = PromptTable.load(deployment.path("report/calibration.safetensors"), stats)
    assert table.subset(range(len(PROMPTS))) == dataclasses.replace(stats, seconds={})


def test_nothing_else_was_left(compiled: Compiled) -> None:
    left = {path.name for path in compiled.folder.parent.iterdir()}
    assert left <= {"deployment", "weights", "prompts.txt", "summary.json", "lock"}


def test_it_runs_where_it_was_moved_and_torch_cannot_be_imported(compiled: Compiled, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(compiled.folder, moved)
    script = """
        import sys
        import numpy as np

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {"torch", "triton", "onnx", "onnx_ir", "onnxscript", "polygraphy"}:
                    raise ImportError(f"{name} must not be imported")

        sys.meta_path.insert(0, Refuse())
        from toprovar.runtime.session import Session

        with Session.open("elsewhere") as session:
            result = session(["a red circle", "two stars"], generator=3, batch_size=2)
        np.save("pixels.npy", np.stack([image.pixels for image in result.images]))
    """
    command = [sys.executable, "-P", "-c", textwrap.dedent(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Session.open(compiled.folder) as session:
        images = session(["a red circle", "two stars"], generator=3).images
    np.testing.assert_allclose(np.load(tmp_path / "pixels.npy"), [image.pixels for image in images], atol=1e-4)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The error, which is the last line; progress may stand before it."""
    written = capsys.readouterr()
    assert "Traceback" not in written.err
    assert written.out == ""
    lines = written.err.strip().splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "toprovarr"], "unknown policy 'toprovarr'; expected one of dense, "),
        (["--backend", "cuda"], "unknown backend to compile for 'cuda'; expected one of onnxruntime, "),
        (["--precision", "fp8"], "cannot compile for onnxruntime in fp8; expected one of fp32; leave out --precision"),
        (["--aspect-ratio", "7:1"], "7:1"),
        (["--resolution", "2M"], "--resolution"),
        (["--target-flops", "0"], "--target-flops"),
        (["--prompts", "missing.txt"], "missing.txt"),
    ],
)
def test_usage(
    arguments: list[str], message: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compile_command(weights, "nano", "-o", tmp_path / "new", *arguments) == 2
    assert message in one_line(capsys)
    assert os.listdir(tmp_path) == []


def test_prompts_that_the_model_cannot_read(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\nein Elefant\n")
    assert compile_command(weights, "nano", "-o", tmp_path / "new", "--prompts", tmp_path / "prompts.txt") == 2
    assert "the model does not know the words 'ein', 'elefant'" in one_line(capsys)
    assert os.listdir(tmp_path) == ["prompts.txt"]


def test_an_output_that_exists(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    assert compile_command(weights, "nano", "-o", output) == 2
    assert "exists; expected a new folder; --force replaces a deployment" in one_line(capsys)
    assert compile_command(weights, "nano", "-o", output, "--force") == 2
    assert "is not a deployment; expected a deployment or an empty folder" in one_line(capsys)
    assert (output / "thesis.txt").read_text() == "years of work"
    assert os.listdir(tmp_path) == ["mine"]


def _truncated(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("truncated.safetensors", _truncated),
        ("empty.safetensors", lambda whole: b""),
        ("text.pth", lambda whole: b"a letter"),
        ("archive.pt", lambda whole: b"PK\x03\x04" + bytes(64)),
    ],
)
def test_a_bad_checkpoint(
    name: str, content: object, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    file.write_bytes(content((weights / "model.safetensors").read_bytes()))  # type: ignore[operator]
    assert compile_command(weights, file, "-o", tmp_path / "new") == 1
    assert name in one_line(capsys)
    assert os.listdir(tmp_path) == [name]


def test_a_checkpoint_without_a_text_encoder(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("model", "vae"):
        shutil.copy(weights / f"{name}.safetensors", tmp_path)
    assert compile_command(weights, tmp_path / "model.safetensors", "-o", tmp_path / "new") == 2
    assert "brings no text encoder; give the folder of flan-t5-xl with --text-encoder" in one_line(capsys)
    assert not (tmp_path / "new").exists()
