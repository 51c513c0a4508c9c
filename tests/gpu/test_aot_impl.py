"""What the plugin's `aot_impl` gives TensorRT for every tactic, launched through the driver.

TensorRT calls it while it builds. Here a second plugin calls it where TensorRT infers shapes, which needs no builder:
there, too, shapes are TensorRT's own expressions, and of a network without open sizes they are constants.
"""

# No `from __future__ import annotations` here: TensorRT inspects the annotations as types.

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from .driver import launch_ptx
from .test_fae import check, inputs

pytest.importorskip("tensorrt")
if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

import tensorrt as trt
import tensorrt.plugin as trtp

from toprovar.plugins.fae import tensorrt_plugin
from toprovar.plugins.fae.aot import portable_configs

pytestmark = pytest.mark.gpu

_QUERIES, _KEYS = 200, 333
_DTYPES = {"bfloat16": trt.DataType.BF16, "float16": trt.DataType.HALF, "float32": trt.DataType.FLOAT}
_wanted: dict[str, Any] = {}
_given: dict[int, Any] = {}


@trtp.register("toprovar_test::AskAotImpl")
def _describe(q: trtp.TensorDesc, k: trtp.TensorDesc, v: trtp.TensorDesc) -> trtp.TensorDesc:
    if not q.shape_expr[0].is_fake:
        _ask(q, k, v)
    return q.like()


@trtp.impl("toprovar_test::AskAotImpl")
def _never_run(q: trtp.Tensor, k: trtp.Tensor, v: trtp.Tensor, outputs: tuple[trtp.Tensor], stream: int) -> None:
    raise AssertionError("nothing is built")


def _number(expression: trtp.SymInt32) -> int:
    # `constant_value` of TensorRT 10.15 calls a property and fails.
    return expression._expr.get_constant_value()


def _ask(*given: trtp.TensorDesc) -> None:
    """Calls `aot_impl` for every tactic, and keeps what it gave as numbers."""
    described = [
        SimpleNamespace(
            shape=[_number(dim) for dim in one.shape_expr],
            dtype=_DTYPES[_wanted["dtype"]],
            shape_expr=one.shape_expr,
        )
        for one in given
    ]
    for tactic in range(len(portable_configs(_wanted["head_dim"], _wanted["dtype"])) + 1):
        name, ptx, launch, integers = tensorrt_plugin._compile(*described, (), tactic)
        numbers = (launch.grid_x, launch.grid_y, launch.grid_z, launch.block_x, launch.shared_mem, *integers)
        _given[tactic] = name, ptx, [_number(number) for number in numbers]


@pytest.mark.parametrize(
    ("head_dim", "dtype"), [(128, "bfloat16"), (64, "bfloat16"), (64, "float16"), (32, "float32")], ids=str
)
def test_every_tactic(head_dim: int, dtype: str) -> None:
    q, k, v = (x.contiguous() for x in inputs(_QUERIES, _KEYS, head_dim, getattr(torch, dtype)))
    _wanted.update(head_dim=head_dim, dtype=dtype)
    _given.clear()
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    tensors = [
        network.add_input(name, _DTYPES[dtype], tuple(x.shape)) for name, x in zip("qkv", (q, k, v), strict=True)
    ]
    layer = network.add_plugin(trtp.op.toprovar_test.AskAotImpl(*tensors))
    assert tuple(layer.get_output(0).shape) == tuple(q.shape)
    # A builder that times no tactic asks for 0, which is the first.
    assert set(_given) == set(range(len(portable_configs(head_dim, dtype)) + 1))
    assert _given[0] == _given[1]
    for name, ptx, (grid_x, grid_y, grid_z, threads, shared_bytes, *integers) in _given.values():
        assert (grid_y, grid_z, integers) == (q.shape[0] * q.shape[1], 1, [_QUERIES, _KEYS])
        output = torch.full_like(q, math.nan)
        entropy = torch.full(q.shape[:3], math.nan, device="cuda")
        launch_ptx(ptx, name, (grid_x, grid_y), threads, shared_bytes, (q, k, v, *integers, output, entropy))
        check((output, entropy), q, k, v)
