"""What stands between a user and TensorRT is told in one line; TensorRT is a stand-in."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from toprovar.errors import BackendError, MissingExtra
from toprovar.runtime import tensorrt
from toprovar.runtime.tensorrt.installed import open_library

NAME = f"{tensorrt.__name__}.library"


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A TensorRT of a version that a test gives."""
    made = types.ModuleType("tensorrt")

    class ILogger:
        class Severity:
            ERROR = 1

    made.ILogger = ILogger  # type: ignore[attr-defined]
    made.__version__ = "10.15.1.29"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", made)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield made
    sys.modules.pop(NAME, None)
    vars(tensorrt).pop("library", None)


def test_it_is_opened(version: types.ModuleType) -> None:
    assert open_library().__name__ == NAME


@pytest.mark.parametrize("number", ["8.6.1", "10.9.0.34"])
def test_too_old(number: str, version: types.ModuleType) -> None:
    version.__version__ = number  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match=rf"TensorRT {number} is too old; expected 10.12 or later") as caught:
        open_library()
    assert "pip install" in str(caught.value.hint)


def test_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtra, match="tensorrt is not installed"):
        open_library()


def test_bindings_without_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendError, match=r"cannot be loaded \(libnvinfer.so.10: cannot open"):
        open_library()


class Engine:
    """As `tensorrt.ICudaEngine`, as far as weights are streamed."""

    def __init__(self, streamable: int) -> None:
        self.streamable_weights_size = streamable
        self.weight_streaming_budget_v2 = -1

    def get_weight_streaming_automatic_budget(self) -> int:
        return 700


@pytest.mark.parametrize(
    ("streamable", "most", "budget"),
    [(900, False, 700), (900, True, 0), (0, True, -1)],
    ids=["proposed", "most", "none"],
)
def test_streamed_weights(streamable: int, most: bool, budget: int, version: types.ModuleType) -> None:
    engine = Engine(streamable)
    open_library().stream_weights(engine, most)
    assert engine.weight_streaming_budget_v2 == budget
