"""Seconds by part."""

from __future__ import annotations

import time

import pytest
import torch

from toprovar.calibration.part_clock import PartClock


def test_parts_add_up() -> None:
    clock, device = PartClock(("one", "other", "never")), torch.device("cpu")
    for part, seconds in (("one", 0.01), ("other", 0.02), ("one", 0.01)):
        with clock.measure(part, device):
            time.sleep(seconds)
    assert 0.02 <= clock.seconds("one") < 1
    assert 0.02 <= clock.seconds("other") < 1
    assert clock.seconds("never") == 0


def test_an_unknown_part() -> None:
    with pytest.raises(KeyError), PartClock(("one",)).measure("another", torch.device("cpu")):
        pass
