"""The PTX of the ahead-of-time plugin; tests/gpu launches it."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("triton")

from toprovar.plugins.fae.aot import compile_kernel, portable_configs
from toprovar.plugins.fae.schema import HEAD_DIMS

DTYPES = ("float32", "float16", "bfloat16")


@pytest.mark.parametrize(("head_dim", "dtype"), [(128, "bfloat16"), (96, "float16"), (32, "float32")], ids=str)
def test_parameters_come_in_the_order_that_tensorrt_passes(head_dim: int, dtype: str) -> None:
    compiled = compile_kernel(head_dim, dtype, (9, 0))
    entry = re.search(rf"\.visible \.entry {compiled.name}\((.*?)\)", compiled.ptx, re.DOTALL)
    assert entry is not None
    # q, k, v; queries, keys; o, entropy. Triton's own scratch pointers are cut.
    assert re.findall(r"\.param \.(\w+)", entry.group(1)) == ["u64"] * 3 + ["u32"] * 2 + ["u64"] * 2
    assert ".target sm_90a" in compiled.ptx
    assert compiled.shared_bytes <= 48 * 1024
    assert compiled.threads == 128


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_tiles_are_powers_of_two(head_dim: int, dtype: str) -> None:
    configs = portable_configs(head_dim, dtype)
    assert len(set(configs)) == len(configs) >= 2
    for config in configs:
        for size in (config.block_m, config.block_n):
            assert size >= 16
            assert size & (size - 1) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_every_tactic_needs_no_opt_in(head_dim: int, dtype: str) -> None:
    for config in portable_configs(head_dim, dtype):
        compiled = compile_kernel(head_dim, dtype, (9, 0), config)
        assert compiled.shared_bytes <= 48 * 1024
        assert (compiled.block_m, compiled.threads) == (config.block_m, 32 * config.num_warps)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="head_dim is 80, but the kernel is built for"):
        compile_kernel(80, "float16", (9, 0))
    with pytest.raises(ValueError, match="dtype is 'float64', but the kernel is built for"):
        compile_kernel(64, "float64", (9, 0))
