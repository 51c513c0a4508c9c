"""The contract is stated once, and importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from toprovar.plugins.fae.schema import SCHEMA, check_shapes

HEAVY = ("torch", "triton", "onnx", "onnxscript", "onnxruntime", "tensorrt")


@pytest.mark.parametrize("module", ["toprovar.plugins", "toprovar.plugins.fae", "toprovar.plugins.fae.schema"])
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_identity() -> None:
    assert (SCHEMA.domain, SCHEMA.name, SCHEMA.version) == ("toprovar", "FlashAttentionEntropy", 1)
    assert SCHEMA.torch_qualified_name == "toprovar::flash_attention_entropy"
    assert SCHEMA.plugin_attributes == {"plugin_namespace": "toprovar", "plugin_version": "1"}
    assert SCHEMA.input_names == ("q", "k", "v")
    assert SCHEMA.output_names == ("o", "entropy")


def test_shapes_that_fit() -> None:
    check_shapes((2, 4, 1, 32), (2, 4, 1, 32), (2, 4, 1, 32))
    check_shapes((2, 4, 0, 32), (2, 4, 5, 32), (2, 4, 5, 32))


@pytest.mark.parametrize(
    ("q", "k", "v", "message"),
    [
        pytest.param((4, 7, 32), (2, 4, 7, 32), (2, 4, 7, 32), "q has shape .*reshape or permute", id="rank"),
        pytest.param((2, 4, 7, 32), (2, 4, 7, 32), (2, 4, 8, 32), "one value a key", id="values"),
        pytest.param((2, 4, 7, 32), (2, 2, 7, 32), (2, 2, 7, 32), "must agree: expand", id="heads"),
        pytest.param((2, 4, 7, 64), (2, 4, 7, 32), (2, 4, 7, 32), "must agree", id="head-dim"),
        pytest.param((2, 4, 7, 32), (2, 4, 0, 32), (2, 4, 0, 32), "at least one key", id="no-keys"),
    ],
)
def test_shapes_that_do_not(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_shapes(q, k, v)
