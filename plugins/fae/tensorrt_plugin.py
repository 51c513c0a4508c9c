"""FlashAttentionEntropy as a TensorRT plugin, in both of TensorRT's Python forms.

Importing this module registers ``toprovar::FlashAttentionEntropy`` version 1, once; a second
import changes nothing. Ahead of time, the Triton kernel's PTX is embedded in the engine, which
then needs no Python. Just in time, TensorRT calls back into Python, which launches the fastest
kernel there is for the device. A network is created with ``PREFER_AOT_PYTHON_PLUGINS`` or
``PREFER_JIT_PYTHON_PLUGINS`` to say which.

State of this file, with TensorRT 10.15.1 on an H100: importing it registers the plugin, the ONNX
parser resolves the node to it, and its shapes and types are inferred; the PTX that it embeds,
launched through the CUDA driver with the arguments in TensorRT's order, gives the kernel's result
(tests/gpu). No engine has been built with it: the builder's libraries at hand lacked the part for
compute capability 9.0.
"""

# No `from __future__ import annotations` here: TensorRT inspects the annotations as types.

from typing import Any

import tensorrt as trt
import tensorrt.plugin as trtp

from toprovar.plugins.fae.schema import SCHEMA, check_shapes

__all__ = ["PLUGIN_ID"]

#: The plugin's name in TensorRT's registry, with its namespace.
PLUGIN_ID = f"{SCHEMA.domain}::{SCHEMA.name}"

_DTYPES = {
    trt.DataType.FLOAT: "float32",
    trt.DataType.HALF: "float16",
    trt.DataType.BF16: "bfloat16",
}
_AUTOTUNE = {trt.DataType.FLOAT: "FP32", trt.DataType.HALF: "FP16", trt.DataType.BF16: "BF16"}


@trtp.register(PLUGIN_ID)
def _describe(q: trtp.TensorDesc, k: trtp.TensorDesc, v: trtp.TensorDesc) -> tuple[trtp.TensorDesc, trtp.TensorDesc]:
    """The outputs' shapes and types: ``o`` as ``q``, the entropy in float32 without head_dim."""
    shape = (q.shape_expr[0], q.shape_expr[1], q.shape_expr[2])
    return q.like(), trtp.from_shape_expr(shape, dtype=trt.float32)


@trtp.autotune(PLUGIN_ID)
def _combinations(
    q: trtp.TensorDesc,
    k: trtp.TensorDesc,
    v: trtp.TensorDesc,
    outputs: tuple[trtp.TensorDesc, trtp.TensorDesc],
) -> list[trtp.AutoTuneCombination]:
    """q, k, v and o share one of three types; the entropy is float32; all are linear; each tile is a tactic."""
    from toprovar.plugins.fae.aot import portable_configs

    combinations = []
    for dtype, name in _DTYPES.items():
        tactics = range(1, len(portable_configs(int(q.shape[3]), name)) + 1)
        kind = _AUTOTUNE[dtype]
        combinations.append(trtp.AutoTuneCombination(f"{kind}, {kind}, {kind}, {kind}, FP32", "LINEAR", list(tactics)))
    return combinations


@trtp.aot_impl(PLUGIN_ID)
def _compile(
    q: trtp.TensorDesc,
    k: trtp.TensorDesc,
    v: trtp.TensorDesc,
    outputs: tuple[trtp.TensorDesc, trtp.TensorDesc],
    tactic: int,
) -> tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]:
    """The kernel's name and PTX, its launch, and the integers between inputs and outputs."""
    import torch

    from toprovar.plugins.fae.aot import compile_kernel, portable_configs

    head_dim = int(q.shape[3])
    if head_dim < 0:
        raise ValueError(f"{SCHEMA.name} needs a fixed head_dim, but the network leaves it open")
    # Tactics count from 1; a builder that times none asks for 0.
    config = portable_configs(head_dim, _DTYPES[q.dtype])[max(tactic or 0, 1) - 1]
    compiled = compile_kernel(head_dim, _DTYPES[q.dtype], torch.cuda.get_device_capability(), config)
    batch, heads, queries, _ = q.shape_expr
    launch = trtp.KernelLaunchParams(
        grid_x=trtp.cdiv(queries, compiled.block_m),
        grid_y=batch * heads,
        block_x=compiled.threads,
        shared_mem=compiled.shared_bytes,
    )
    integers = trtp.SymIntExprs.from_tuple([trtp.SymInt32(queries), trtp.SymInt32(k.shape_expr[2])])
    return compiled.name, compiled.ptx, launch, integers


@trtp.impl(PLUGIN_ID)
def _run(
    q: trtp.Tensor,
    k: trtp.Tensor,
    v: trtp.Tensor,
    outputs: tuple[trtp.Tensor, trtp.Tensor],
    stream: int,
) -> None:
    """Launch the kernel on TensorRT's stream and buffers."""
    import torch

    from toprovar.plugins.fae.launcher import launch

    check_shapes(tuple(q.shape), tuple(k.shape), tuple(v.shape))
    with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
        output, entropy = (_as_torch(tensor) for tensor in outputs)
        launch(_as_torch(q), [(_as_torch(k), _as_torch(v))], output, nats=entropy)


class _Buffer:
    """A device buffer of TensorRT's for torch; 16-bit floats go as integers, see ``_as_torch``."""

    def __init__(self, tensor: trtp.Tensor) -> None:
        wide = tensor.dtype == trt.DataType.FLOAT
        self.__cuda_array_interface__: dict[str, Any] = {
            "shape": tuple(tensor.shape),
            "typestr": "<f4" if wide else "<i2",
            "data": (tensor.data_ptr, False),
            "version": 3,
        }


def _as_torch(tensor: trtp.Tensor) -> Any:
    """A torch view of a linear TensorRT tensor; the array interface itself lacks bfloat16."""
    import torch

    view = torch.as_tensor(_Buffer(tensor), device="cuda")
    return view.view(getattr(torch, _DTYPES[tensor.dtype]))
