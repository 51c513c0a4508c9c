"""What is asked of TensorRT's refitter, and what is done with its answers; TensorRT is a stand-in."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from toprovar.errors import BackendError

from .stand_in import Script, install


class Asked:
    """What the stand-in was asked, and what it answers."""

    def __init__(self) -> None:
        self.refittable, self.fits, self.refits = True, True, True
        self.graph = ""
        self.host_code: bool | None = None
        self.engine: Any = None


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def module(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    library = install(monkeypatch, Script())

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            pass

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            asked.host_code = self.engine_host_code_allowed
            asked.engine = SimpleNamespace(refittable=asked.refittable, serialize=lambda: data + b" refitted")
            return asked.engine if data.startswith(b"engine") else None

    class Refitter:
        def __init__(self, engine: Any, logger: Any) -> None:
            assert engine is asked.engine

        def refit_cuda_engine(self) -> bool:
            return asked.refits

        def get_missing_weights(self) -> list[str]:
            return ["val_7"]

    class OnnxParserRefitter:
        num_errors = 1

        def __init__(self, refitter: Refitter, logger: Any) -> None:
            assert isinstance(refitter, Refitter)

        def refit_from_file(self, path: str) -> bool:
            asked.graph = path
            return asked.fits

        def get_error(self, index: int) -> Any:
            return SimpleNamespace(desc=lambda: "another shape")

    for kind in (Runtime, Refitter, OnnxParserRefitter):
        setattr(library, kind.__name__, kind)
    name = "toprovar.compiler.tensorrt.refit"
    monkeypatch.delitem(sys.modules, name, raising=False)
    made = importlib.import_module(name)
    monkeypatch.delitem(sys.modules, name)
    return made


@pytest.fixture
def refit(module: ModuleType, tmp_path: Path) -> Callable[[], bytes]:
    (tmp_path / "step.engine").write_bytes(b"engine")

    def call() -> bytes:
        module.refit_engine(tmp_path / "step.engine", tmp_path / "step.onnx", tmp_path / "new.engine", True)
        return (tmp_path / "new.engine").read_bytes()

    return call


def test_the_new_weights_are_written(refit: Callable[[], bytes], asked: Asked, tmp_path: Path) -> None:
    assert refit() == b"engine refitted"
    assert (asked.graph, asked.host_code) == (str(tmp_path / "step.onnx"), True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"refittable": False}, "step.engine holds its weights for good"),
        ({"fits": False}, r"step.onnx does not fit step.engine \(another shape\)"),
        ({"refits": False}, r"step.engine cannot be refitted \(val_7\)"),
    ],
)
def test_what_is_refused(
    change: dict[str, bool], message: str, refit: Callable[[], bytes], asked: Asked, tmp_path: Path
) -> None:
    vars(asked).update(change)
    with pytest.raises(BackendError, match=message) as caught:
        refit()
    assert "--refittable" in str(caught.value.hint)
    assert not (tmp_path / "new.engine").exists()


def test_an_engine_of_another_version(refit: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "step.engine").write_bytes(b"other")
    with pytest.raises(BackendError, match=r"TensorRT refuses step\.engine"):
        refit()
