"""Tiles of the GPU kernels, chosen by shape, element type and device; docs/performance.md has the times behind them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HopperConfig", "TritonConfig", "choose_config"]


@dataclass(frozen=True)
class TritonConfig:
    """How one program of ``kernel`` is cut.

    Attributes:
        block_m: Queries a program, a power of two of at least 16.
        block_n: Keys a step, a power of two of at least 16.
        num_warps: Warps a program.
        num_stages: Depth of the software pipeline over the keys.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class HopperConfig:
    """How one program of ``kernel_hopper`` is cut; it always takes 128 queries.

    Attributes:
        block_n: Keys a step, a power of two of at least 64.
        stages: Tiles of keys, and of values, in flight.
    """

    block_n: int = 128
    stages: int = 2


def choose_config(
    batch_heads: int,
    queries: int,
    keys: int,
    head_dim: int,
    itemsize: int,
    capability: tuple[int, int],
    processors: int,
) -> TritonConfig | HopperConfig:
    """Choose the kernel and its tiles for a shape.

    Args:
        batch_heads: Product of batch and heads.
        queries: Queries a head.
        keys: Keys a head.
        head_dim: Head dimension.
        itemsize: Bytes an element: 2 or 4.
        capability: Compute capability of the device.
        processors: Multiprocessors of the device.

    Returns:
        The tiles; their class says which kernel runs.
    """
    if itemsize == 4:
        # Products without tensor cores keep whole rows in registers.
        return TritonConfig(block_m=64 if head_dim <= 32 else 16, block_n=32, num_warps=4, num_stages=2)
    if capability == (9, 0):
        if batch_heads * -(-queries // 64) <= processors:
            return TritonConfig(block_m=64, block_n=64, num_warps=4, num_stages=3)
        return HopperConfig(block_n=64, stages=4) if keys <= 640 else HopperConfig()
    if batch_heads * -(-queries // 128) < processors:
        return TritonConfig(block_m=64, block_n=64, num_warps=4, num_stages=3)
    return TritonConfig(block_m=128, block_n=64, num_warps=8, num_stages=2)
