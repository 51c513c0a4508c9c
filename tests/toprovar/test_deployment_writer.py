"""Writing a deployment: whole or not at all, and nothing else is ever deleted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toprovar.deployment import Deployment
from toprovar.deployment_writer import DeploymentWriter
from toprovar.errors import ArtefactError, UsageError
from toprovar.manifest import Manifest
from toprovar.plan import SparsityPlan

Write = Callable[..., Path]


def test_parents_are_made_and_the_mode_is_the_users(write: Write, tmp_path: Path) -> None:
    folder = write(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a") == ["b"]
    (tmp_path / "plain").mkdir()
    assert folder.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
def test_nothing_is_left_after_an_exception(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), DeploymentWriter(tmp_path / "nano") as writer:
        (writer.folder / "plan.json").write_text("half")
        assert os.listdir(tmp_path) == [writer.folder.name]
        assert writer.folder.name.startswith(f".nano.partial-{os.getpid()}")
        raise error
    assert os.listdir(tmp_path) == []


def test_without_a_manifest_nothing_is_published(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"manifest was not set"), DeploymentWriter(tmp_path / "nano"):
        pass
    assert os.listdir(tmp_path) == []


def test_without_a_plan_nothing_is_published(tmp_path: Path, manifest: Manifest) -> None:
    with pytest.raises(ArtefactError, match=r"does not list plan.json"), DeploymentWriter(tmp_path / "nano") as writer:
        writer.manifest = manifest
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["file", "foreign", "home", "extra", "dangling"])
def test_what_is_not_ours_is_never_replaced(write: Write, tmp_path: Path, kind: str, force: bool) -> None:
    target = tmp_path / "nano"
    if kind == "file":
        target.write_text("precious")
    elif kind == "foreign":
        target.mkdir()
        (target / "precious").write_text("precious")
    elif kind == "home":
        target.mkdir()
        (target / "manifest.json").write_text('{"format": "something else", "files": {}}')
    elif kind == "extra":
        write(target)
        (target / "graphs" / "precious").write_text("precious")
    else:
        target.mkdir()
        os.symlink("nowhere", target / "precious")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"nano (exists|is not a|holds)"), DeploymentWriter(target, force=force):
        pytest.fail("the block was entered")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_deployment_is_refused_with_a_hint(write: Write, deployment: Path) -> None:
    with pytest.raises(UsageError, match="--force replaces"):
        write(deployment)
    with pytest.raises(UsageError, match="--force replaces"):
        (deployment.parent / "empty").mkdir()
        write(deployment.parent / "empty")


def test_force_replaces_a_deployment_and_an_empty_folder(write: Write, deployment: Path) -> None:
    (deployment / "report").mkdir()
    (deployment / "report" / "index.html").write_text("later")
    (deployment.parent / "empty").mkdir()
    write(deployment, force=True)
    write(deployment.parent / "empty", force=True)
    assert not (deployment / "report").exists()
    assert sorted(os.listdir(deployment.parent)) == ["empty", "nano"]
    assert Deployment.open(deployment.parent / "empty").plan == Deployment.open(deployment).plan


def test_force_follows_a_link(write: Write, deployment: Path) -> None:
    link = deployment.parent / "latest"
    link.symlink_to(deployment)
    write(link, force=True)
    assert link.is_symlink()
    assert sorted(os.listdir(deployment.parent)) == ["latest", "nano"]


def test_the_old_deployment_survives_a_failed_replacement(
    write: Write, deployment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (deployment / "manifest.json").read_bytes()
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if ".partial-" in Path(source).name:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(KeyboardInterrupt):
        write(deployment, force=True)
    assert (deployment / "manifest.json").read_bytes() == before
    assert os.listdir(deployment.parent) == ["nano"]


def test_a_target_that_appears_meanwhile_is_kept(tmp_path: Path, plan: SparsityPlan, manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="exists"), DeploymentWriter(tmp_path / "nano") as writer:
        plan.save(writer.folder / "plan.json")
        writer.manifest = manifest
        (tmp_path / "nano").mkdir()
    assert os.listdir(tmp_path) == ["nano"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB; where none can be mounted, the test is skipped (a limit test follows)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("size", [1 << 20, 60 << 10], ids=["file too large", "no room for the manifest"])
def test_a_full_disk(tiny_disk: Path, plan: SparsityPlan, manifest: Manifest, size: int) -> None:
    with (
        pytest.raises(ArtefactError, match="cannot be written: no space is left on its disk; free some"),
        DeploymentWriter(tiny_disk / "nano") as writer,
    ):
        writer.manifest = manifest
        plan.save(writer.folder / "plan.json")
        with (writer.folder / "weights").open("wb", buffering=0) as file:
            for _ in range(size >> 10):
                file.write(bytes(1024))
    assert os.listdir(tiny_disk) == []


def test_a_file_size_limit(tmp_path: Path) -> None:
    result = _python(
        """
        import resource, signal, sys
        from toprovar.deployment_writer import DeploymentWriter
        from toprovar.errors import ToProVARError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            with DeploymentWriter(sys.argv[1] + "/nano") as writer:
                (writer.folder / "weights").write_bytes(bytes(8192))
        except ToProVARError as error:
            print(error.one_line())
        """,
        tmp_path,
    ).communicate()[0]
    assert "no space is left on its disk" in result
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing(tmp_path: Path, number: int, code: int) -> None:
    process = _python(
        """
        import sys, time
        import click
        from toprovar import cli
        from toprovar.deployment_writer import DeploymentWriter

        @click.command()
        def command():
            with DeploymentWriter(sys.argv[1] + "/nano") as writer:
                (writer.folder / "weights").write_bytes(bytes(8192))
                time.sleep(60)

        cli.run_as_program(command, "toprovar", [])
        """,
        tmp_path,
    )
    deadline = time.monotonic() + 20
    while not any(tmp_path.rglob("weights")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert os.listdir(tmp_path) == []


def _python(script: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(script), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
