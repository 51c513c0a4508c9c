"""The kernel and tiles that are chosen: docs/performance.md has the times behind them."""

from __future__ import annotations

import pytest

from toprovar.plugins.fae.configs import HopperConfig, TritonConfig, choose_config

H100 = {"capability": (9, 0), "processors": 132}
A100 = {"capability": (8, 0), "processors": 108}
ONE_WAVE = TritonConfig(block_m=64, block_n=64, num_warps=4, num_stages=3)


@pytest.mark.parametrize(
    ("batch_heads", "queries", "keys", "expected"),
    [
        (32, 256, 521, ONE_WAVE),
        (56, 256, 521, HopperConfig(block_n=64, stages=4)),
        (32, 400, 921, HopperConfig()),
        (56, 400, 921, HopperConfig()),
        (32, 4096, 10521, HopperConfig()),
        (56, 4096, 10521, HopperConfig()),
        (32, 1, 1, ONE_WAVE),
        (6000, 1, 1, HopperConfig(block_n=64, stages=4)),
    ],
    ids=str,
)
def test_hopper(batch_heads: int, queries: int, keys: int, expected: object) -> None:
    assert choose_config(batch_heads, queries, keys, 128, 2, **H100) == expected


def test_other_devices_and_float32_run_the_triton_kernel() -> None:
    for queries in (1, 256, 4096):
        for itemsize, device in ((2, A100), (4, A100), (4, H100)):
            assert isinstance(choose_config(32, queries, 10521, 128, itemsize, **device), TritonConfig)
