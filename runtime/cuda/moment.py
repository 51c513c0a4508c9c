"""Points in time on the device's own clock."""

from __future__ import annotations

import torch

from toprovar.runtime.clock import Moment
from toprovar.runtime.cuda.faults import naming_faults

__all__ = ["DeviceMoment"]


class DeviceMoment(Moment):
    """When the device reaches this place in its work."""

    def __init__(self) -> None:
        self._event = torch.cuda.Event(enable_timing=True)
        self._event.record()

    def since(self, earlier: Moment) -> float:
        """Seconds since an earlier one; waits for the device."""
        if not isinstance(earlier, DeviceMoment):
            raise TypeError(f"{type(earlier).__name__} is no moment of a device")
        with naming_faults():
            self._event.synchronize()
        return float(earlier._event.elapsed_time(self._event)) / 1000
