"""The loop of both trainings: it saves, stops and goes on."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from toprovar.errors import ToProVARError
from toprovar.models.checkpoint import read_state_dict
from toprovar.models.nano.training import AveragedWeights, Loop, Moment, Plan, Processes, save_half, write_atomically

STEPS = 23
"""Where the loop looks at its clock for the third time."""


class Run:
    """A loop over a small network that learns a fixed function of random inputs."""

    def __init__(self, folder: Path, plan: Plan | None = None, seed: int = 3) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        weights = [p for p in self.model.parameters() if p.dim() == 2]
        biases = [p for p in self.model.parameters() if p.dim() == 1]
        optimizers = [torch.optim.Muon(weights, lr=1e-2), torch.optim.AdamW(biases, lr=1e-2)]
        plan = plan or Plan(seconds=1e9, rate=1e-2, warm_up=0.0)
        self.file = folder / "weights.safetensors"
        self.loop = Loop(self.model, optimizers, Processes(torch.device("cpu")), plan, folder / "state.pt", seed)
        self.seen: list[float] = []
        self.evaluated: list[bool] = []
        self.interrupt_at = math.inf

    def losses(self, moment: Moment) -> tuple[Tensor, Callable[[], str]]:
        if moment.step == self.interrupt_at:
            os.kill(os.getpid(), signal.SIGTERM)
        inputs = torch.randn(32, 4, generator=moment.generator)
        loss = (self.model(inputs).squeeze(1) - inputs.sum(1).sin()).square().mean()
        self.seen.append(loss.item())
        return loss, lambda: "of a test"

    def save_weights(self) -> None:
        save_half(self.loop.average.model.state_dict(), self.file)

    def read_weights(self) -> None:
        self.model.load_state_dict(load_file(self.file))

    def until(self, step: int) -> Run:
        """Trains until SIGTERM comes in the last step before `step`."""
        self.interrupt_at = step - 1
        assert not self.loop.run(self.losses, self.save_weights, self.evaluated.append)
        return self


def test_an_interrupted_run_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole").until(STEPS + 20)
    Run(tmp_path / "parts").until(STEPS)
    second = Run(tmp_path / "parts")
    second.loop.resume(second.read_weights)
    assert (second.loop.step, second.loop.calls) == (STEPS, 1)
    second.until(STEPS + 20)
    assert second.seen == pytest.approx(whole.seen[STEPS:], rel=1e-5)
    assert second.loop.step == whole.loop.step == STEPS + 20
    for one, other in zip(second.loop.average.model.parameters(), whole.loop.average.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    record = json.loads((tmp_path / "parts" / "state.json").read_text())
    assert (record["step"], record["calls"]) == (STEPS + 20, 2)
    assert record["spent_seconds"] > 0


def test_where_only_the_weights_are_left_they_are_taken_up_with_a_rising_rate(tmp_path: Path) -> None:
    first = Run(tmp_path).until(STEPS)
    (tmp_path / "state.pt").unlink()
    second = Run(tmp_path)
    second.loop.resume(second.read_weights)
    assert second.loop.step == STEPS
    for one, other in zip(second.model.parameters(), first.loop.average.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    before = [parameter.detach().clone() for parameter in second.model.parameters()]
    second.until(STEPS + 10)
    rates = [group["lr"] for optimizer in second.loop._optimizers for group in optimizer.param_groups]
    assert rates == pytest.approx([1e-2 * 10 / 100] * 2)
    assert any((one != other).any() for one, other in zip(second.model.parameters(), before, strict=True))


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(ToProVARError, match=r"neither state\.pt nor state\.json"):
        run.loop.resume(run.read_weights)


def test_the_schedule_goes_on_by_the_clock(tmp_path: Path) -> None:
    plan = Plan(seconds=0.4, rate=1e-2, stop_at=time.time() + 0.2)
    first = Run(tmp_path, plan)
    assert not first.loop.run(first.losses, first.save_weights, first.evaluated.append)
    assert 0.05 < first.loop.spent < 0.4
    assert first.evaluated == [False]
    second = Run(tmp_path, Plan(seconds=0.4, rate=1e-2))
    second.loop.resume(second.read_weights)
    began = time.time()
    assert second.loop.run(second.losses, second.save_weights, second.evaluated.append)
    assert time.time() - began < 0.4
    assert second.loop.spent >= 0.4
    assert second.evaluated == [True]


@pytest.mark.parametrize("seconds", [0.05, 1e9], ids=["stretched", "shortened"])
def test_a_schedule_can_be_made_to_end_with_the_call(seconds: float, tmp_path: Path) -> None:
    end = time.time() + 1.2
    run = Run(tmp_path, Plan(seconds=seconds, rate=1e-2, stop_at=end, finish=True))
    run.loop.run(run.losses, run.save_weights, run.evaluated.append)
    assert run.evaluated == [True]
    assert 0 <= time.time() - end < 2


def test_it_saves_and_evaluates_as_it_goes(tmp_path: Path) -> None:
    plan = Plan(seconds=0.5, rate=1e-2, save_every=0.1, evaluate_every=0.2)
    run = Run(tmp_path, plan)
    saved: list[int] = []
    run.loop.run(run.losses, lambda: saved.append(run.loop.step), run.evaluated.append)
    assert len(saved) >= 3
    assert saved == sorted(saved)
    assert run.evaluated[-1]
    assert 2 <= len(run.evaluated) <= 4
    assert not any(run.evaluated[:-1])


def test_a_loss_that_is_not_a_number_leaves_the_last_save_alone(tmp_path: Path) -> None:
    run = Run(tmp_path).until(STEPS)
    before = (tmp_path / "state.pt").read_bytes()
    run = Run(tmp_path)
    run.loop.resume(run.read_weights)
    with pytest.raises(ToProVARError, match="not finite"):
        run.loop.run(lambda moment: (run.losses(moment)[0] * float("nan"), str), run.save_weights, run.evaluated.append)
    assert (tmp_path / "state.pt").read_bytes() == before


def test_signals_are_as_before_after_a_run(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    Run(tmp_path).until(STEPS)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_the_state_holds_only_what_loads_without_running_code(tmp_path: Path) -> None:
    Run(tmp_path).until(STEPS)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["schema_version"] == 1
    assert set(state["model"]) == set(state["average"])
    assert len(state["optimizers"]) == 2


KILLED = """
import sys, torch
from pathlib import Path
from toprovar.models.nano.training import save_half, write_atomically
folder = Path(sys.argv[1])
tensor = torch.zeros(1 << 20)
for number in range(10**6):
    tensor.fill_(number % 1000)
    save_half({f"part.{i}": tensor for i in range(4)}, folder / "model.safetensors", shard_bytes=5 << 20)
    write_atomically({folder / "state.pt": lambda path: torch.save({"number": number, "tensor": tensor}, path)})
    if number == 0:
        print("ready", flush=True)
"""


def test_a_killed_process_leaves_no_half_written_file(tmp_path: Path) -> None:
    for delay in (0.03, 0.07):
        process = subprocess.Popen([sys.executable, "-P", "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.wait()
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert (state["tensor"] == state["number"] % 1000).all()
        weights = read_state_dict(tmp_path)
        assert set(weights) == {f"part.{i}" for i in range(4)}
        for tensor in weights.values():
            assert tensor.unique().numel() == 1


def test_files_are_replaced_together_or_not_at_all(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("old")

    def fail(_: Path) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically({one: lambda path: path.write_text("new"), other: fail})
    assert one.read_text() == "old"
    assert not other.exists()


def test_rate_rises_then_falls() -> None:
    plan = Plan(seconds=100, rate=2.0, warm_up=0.1)
    assert plan.rate_at(0.05) == pytest.approx(1.0)
    assert plan.rate_at(0.1) == pytest.approx(2.0)
    assert plan.rate_at(0.55) == pytest.approx(1.01)
    assert plan.rate_at(1.2) == pytest.approx(0.02)


def test_the_average_follows_slowly_and_first_faster() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1.0)
    average = AveragedWeights(model, decay=0.9)
    nn.init.constant_(model.weight, 0.0)
    average.update(1)
    assert average.model.weight.item() == pytest.approx(2 / 11)
    for step in range(1000, 1002):
        average.update(step)
    assert average.model.weight.item() == pytest.approx(2 / 11 * 0.81)


def test_two_processes_train_as_one_of_twice_the_batch_and_stop_together(tmp_path: Path) -> None:
    script = tmp_path / "pair.py"
    script.write_text(PAIR)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [sys.executable, "-P", "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    result = subprocess.run(
        [*launcher, str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("same") == 2


PAIR = """
import os, signal, torch
from pathlib import Path
from torch import nn
from toprovar.models.nano.train import _distributed
from toprovar.models.nano.training import Loop, Plan
with _distributed() as processes:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    plan = Plan(seconds=1e9, rate=1e-2, warm_up=0.0)
    loop = Loop(model, [torch.optim.AdamW(model.parameters())], processes, plan, Path("state.pt"), seed=1)
    drawn = []
    def losses(moment):
        if processes.rank == 1 and moment.step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        inputs = torch.randn(5, 3, generator=moment.generator)
        drawn.append(inputs)
        return model(inputs).square().mean(), str
    loop.run(losses, lambda: None, lambda final: None)
    weights = [torch.zeros(1, 3) for _ in range(2)]
    torch.distributed.all_gather(weights, model.weight.detach())
    first = [torch.zeros(5, 3) for _ in range(2)]
    torch.distributed.all_gather(first, drawn[0])
    assert loop.step == 13
    assert (weights[0] == weights[1]).all() and (first[0] != first[1]).any()
    print("same", flush=True)
    torch.distributed.barrier()
    os._exit(0)  # gloo's threads sometimes abort a process that ends in order
"""
