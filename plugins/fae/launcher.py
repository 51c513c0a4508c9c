"""Launch the GPU kernels on tensors: strides, descriptors, tiles and grid."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton

from toprovar.plugins.fae import kernel
from toprovar.plugins.fae.configs import HopperConfig, TritonConfig, choose_config

__all__ = ["launch"]

Pieces = Sequence[tuple[torch.Tensor, torch.Tensor]]


@functools.cache
def _device(index: int) -> tuple[tuple[int, int], int]:
    properties = torch.cuda.get_device_properties(index)
    return (properties.major, properties.minor), properties.multi_processor_count


def _dense_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself if its innermost axis is dense, otherwise a dense copy."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _fits_descriptor(tensor: torch.Tensor) -> bool:
    """Whether the tensor memory accelerator can address a [batch, heads, length, dim] tensor."""
    if tensor.data_ptr() % 16:
        return False
    aligned = 16 // tensor.element_size()
    axes = zip(tensor.shape[:3], tensor.stride()[:3], strict=True)
    return all(size == 1 or (stride > 0 and stride % aligned == 0) for size, stride in axes)


def launch(
    q: torch.Tensor,
    pieces: Pieces,
    output: torch.Tensor,
    query_index: torch.Tensor | None = None,
    head_mean: bool = False,
    *,
    entropy: bool = True,
    nats: torch.Tensor | None = None,
    config: TritonConfig | HopperConfig | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a kernel; the arguments were checked by the operator.

    Args:
        q: Queries [batch, heads, queries, head_dim].
        pieces: One or two pairs of keys and values, attended to as if joined.
        output: Where to write, [batch, heads, kept, head_dim], innermost axis dense.
        query_index: Positions in ``q`` [batch, kept]; None for all.
        head_mean: Return the entropy's mean over heads.
        entropy: Compute the entropy; without it (a benchmark's baseline) the second result
            is left as it was allocated.
        nats: Where to write the entropy, contiguous float32 [batch, heads, kept]; None
            allocates it.
        config: The kernel and its tiles; None chooses them.

    Returns:
        ``output`` and the entropy, float32 [batch, heads, kept] or [batch, kept].
    """
    batch, heads, kept, head_dim = output.shape
    q = _dense_rows(q)
    pieces = [(_dense_rows(k), _dense_rows(v)) for k, v in pieces]
    if nats is None:
        nats = torch.empty((batch, heads, kept), dtype=torch.float32, device=q.device)
    index = q if query_index is None else query_index.contiguous()
    if kept == 0 or batch * heads == 0:
        return output, nats.mean(1) if head_mean else nats
    if config is None:
        keys = sum(k.shape[2] for k, _ in pieces)
        capability, processors = _device(q.device.index)
        config = choose_config(batch * heads, kept, keys, head_dim, q.element_size(), capability, processors)
        fits = all(_fits_descriptor(tensor) for pair in pieces for tensor in pair)
        if isinstance(config, HopperConfig) and not fits:
            config = TritonConfig(block_m=128, block_n=64, num_warps=8, num_stages=3)
    run = _run_hopper if isinstance(config, HopperConfig) else _run_triton
    run(q, pieces, output, nats, index, query_index is not None, entropy, config)
    # A mean in the kernel would need atomics, whose order, and so whose rounding and the
    # ranking of near ties, changes from run to run.
    return output, nats.mean(1) if head_mean else nats


def _run_triton(
    q: torch.Tensor,
    pieces: Pieces,
    output: torch.Tensor,
    nats: torch.Tensor,
    index: torch.Tensor,
    gather: bool,
    entropy: bool,
    config: TritonConfig,
) -> None:
    batch, heads, kept, head_dim = output.shape
    (k0, v0), (k1, v1) = pieces[0], pieces[-1]
    kernel.strided_kernel[(triton.cdiv(kept, config.block_m), batch * heads)](
        q, k0, v0, k1, v1, index, output, nats, heads, kept, k0.shape[2], k1.shape[2],
        *q.stride()[:3], *k0.stride()[:3], *v0.stride()[:3],
        *k1.stride()[:3], *v1.stride()[:3], *output.stride()[:3],
        HEAD_DIM=head_dim, BLOCK_M=config.block_m, BLOCK_N=config.block_n,
        PIECES=len(pieces), GATHER=gather, ENTROPY=entropy,
        num_warps=config.num_warps, num_stages=config.num_stages, enable_fp_fusion=True,
    )  # fmt: skip


def _run_hopper(
    q: torch.Tensor,
    pieces: Pieces,
    output: torch.Tensor,
    nats: torch.Tensor,
    index: torch.Tensor,
    gather: bool,
    entropy: bool,
    config: HopperConfig,
) -> None:
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from toprovar.plugins.fae import kernel_hopper

    batch, heads, kept, head_dim = output.shape
    block = [1, 1, config.block_n, triton.next_power_of_2(head_dim)]
    dtype = gl.bfloat16 if q.dtype == torch.bfloat16 else gl.float16
    layout = gl.NVMMASharedLayout.get_default_for(block, dtype)

    def describe(tensor: torch.Tensor) -> TensorDescriptor:
        # An axis of one element may have any stride, also one that a descriptor refuses.
        strides = [
            head_dim if size == 1 else stride
            for size, stride in zip(tensor.shape[:3], tensor.stride()[:3], strict=True)
        ]
        return TensorDescriptor(tensor, list(tensor.shape), [*strides, 1], block, layout)

    (k0, v0), (k1, v1) = pieces[0], pieces[-1]
    first = (describe(k0), describe(v0))
    second = (describe(k1), describe(v1)) if len(pieces) == 2 else first
    kernel_hopper.hopper_kernel[(triton.cdiv(kept, 128), batch * heads)](
        q, *first, *second, index, output, nats, heads, kept, k0.shape[2], k1.shape[2],
        *q.stride()[:3], *output.stride()[:3],
        HEAD_DIM=head_dim, BLOCK_N=config.block_n, STAGES=config.stages, PIECES=len(pieces),
        GATHER=gather, ENTROPY=entropy, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip
