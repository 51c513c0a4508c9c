"""Where a generation's time goes, kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

__all__ = ["KernelTime", "profile"]


@dataclass(frozen=True)
class KernelTime:
    """All launches of one kernel.

    Attributes:
        name: of the kernel.
        milliseconds: on the device, together.
        launches: how many.
    """

    name: str
    milliseconds: float
    launches: int


def profile(work: Callable[[], object]) -> list[KernelTime]:
    """Kernels of one run of `work`, those that take longest first."""
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        work()
        torch.cuda.synchronize()
    found = [
        KernelTime(event.key, event.self_device_time_total / 1000, event.count)
        for event in profiler.key_averages()
        if event.self_device_time_total > 0
    ]
    return sorted(found, key=lambda one: -one.milliseconds)
