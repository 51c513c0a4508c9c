"""The estimate before a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from toprovar.compiler.tensorrt.contract import GraphFile
from toprovar.compiler.tensorrt.memory import estimate_memory, fit_memory
from toprovar.engines import EngineProfile, Span
from toprovar.errors import BackendError
from toprovar.signature import Signature

GIB = 1 << 30
GRAPH = GraphFile(
    Path("step.onnx"),
    Signature({"x": ("R", "L", "C"), "order": ("B", "L")}, {"next_x": ("R", "L", "C")}),
    {"x": "bfloat16", "order": "int64", "next_x": "float32"},
    5 * GIB,
    0,
    0,
)


def profile(tokens: int) -> EngineProfile:
    shapes = {
        "x": Span((1, tokens, 1024), (2, tokens, 1024), (4, tokens, 1024)),
        "order": Span((1, tokens), (1, tokens), (2, tokens)),
    }
    return EngineProfile("scale", 0, False, shapes, {})


def test_the_largest_profile_counts() -> None:
    estimate = estimate_memory(GRAPH, [profile(16), profile(1024)])
    x, order, next_x = 4 * 1024 * 1024 * 2, 2 * 1024 * 8, 4 * 1024 * 1024 * 4
    assert estimate.tensors == x + order + next_x
    assert estimate.activations % next_x == 0
    assert estimate.resident == estimate.streamed + 5 * GIB


def test_weights_are_streamed_where_memory_is_short() -> None:
    estimate = estimate_memory(GRAPH, [profile(1024)])
    assert not fit_memory("step", estimate, 8 * GIB)
    assert fit_memory("step", estimate, 3 * GIB)
    with pytest.raises(BackendError, match=r"step needs about 1\.\d GiB .* 0\.5 GiB are free") as caught:
        fit_memory("step", estimate, GIB // 2)
    assert caught.value.hint is not None
    assert "--images" in caught.value.hint
