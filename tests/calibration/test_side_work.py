"""What runs beside a generation: at once on a CPU; the order of waiting with a thread of the test's own."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from toprovar.calibration.part_clock import PartClock
from toprovar.calibration.side_work import SideWork

CPU = torch.device("cpu")


@pytest.fixture
def clock() -> PartClock:
    return PartClock(("one", "other"))


def take(seconds: float, done: list[str], part: str) -> None:
    time.sleep(seconds)
    done.append(part)


def fail(what: str) -> None:
    raise ValueError(what)


def test_a_cpu_works_at_once(clock: PartClock) -> None:
    beside, done = SideWork(clock), list[str]()
    beside.do("one", lambda: take(0.01, done, "one"), CPU)
    assert done == ["one"]
    assert clock.seconds("one") >= 0.01
    assert clock.seconds("other") == 0
    with pytest.raises(ValueError, match="broken"):
        beside.do("one", lambda: fail("broken"), CPU)
    beside.finish()


def test_waiting_counts_as_the_parts_that_are_waited_for(clock: PartClock) -> None:
    beside, done = SideWork(clock), list[str]()
    with ThreadPoolExecutor(1) as thread:
        for part, seconds in (("one", 0.02), ("other", 0.05)):
            beside._under_way.append((part, thread.submit(take, seconds, done, part)))
        beside.finish()
    assert done == ["one", "other"]
    assert 0.01 < clock.seconds("one") < clock.seconds("other")


def test_the_first_failure_is_told_and_the_others_are_forgotten(clock: PartClock) -> None:
    beside = SideWork(clock)
    with ThreadPoolExecutor(1) as thread:
        for what in ("first", "second"):
            beside._under_way.append(("one", thread.submit(fail, what)))
        with pytest.raises(ValueError, match="first"):
            beside.finish()
        beside.finish()
        beside._under_way.append(("one", thread.submit(fail, "third")))
        beside.forget()
        beside.finish()
