"""What both trainings share: processes, the schedule, averaged weights, a loop that can stop and go on, files.

The loop never holds more than a minute of work that is not on disk: it saves as it goes, and once more when
its time is over or it is told to stop.
"""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from toprovar.errors import ToProVARError

__all__ = [
    "AveragedWeights",
    "Loop",
    "Moment",
    "Plan",
    "Processes",
    "report",
    "save_half",
    "write_atomically",
]

_STARTED = time.monotonic()
_SYNC = 10
"""Steps between two agreements of the processes on clock and end; each waits for the GPU."""
_REPORT = 100
_UNCOUNTED = 3
"""First steps of a call, which may compile: they are not counted as training."""
_RAMP = 100
"""Steps of a rising rate when weights are taken up without the optimizers' state."""


def report(message: str) -> None:
    """Prints a line with the seconds since the process began."""
    click.echo(f"[{time.monotonic() - _STARTED:4.0f} s] {message}")


@dataclass(frozen=True)
class Processes:
    """The processes that train together, one a GPU, as torchrun starts them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    def agree(self, *values: float) -> list[float]:
        """The largest of each value over all processes: the same answer in every one."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values or (0.0,), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return shared.tolist()

    def average_gradients(self, model: nn.Module) -> None:
        """Replaces every gradient by its mean over the processes; all of them as one message."""
        if self.size == 1:
            return
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


@dataclass(frozen=True)
class Plan:
    """How long to train and how fast.

    Attributes:
        seconds: length of the schedule, over all calls that it takes; compiling and the like not counted.
        rate: peak learning rate.
        stop_at: when this call saves and ends, in seconds of `time.time`.
        finish: stretch or shorten the schedule so that it ends with this call.
        save_every: seconds between two saves.
        evaluate_every: seconds between two evaluations.
        warm_up: share of the schedule with a rising rate.
    """

    seconds: float
    rate: float
    stop_at: float = math.inf
    finish: bool = False
    save_every: float = 60.0
    evaluate_every: float = 240.0
    warm_up: float = 0.03

    def rate_at(self, progress: float) -> float:
        """Learning rate: linear warm-up, then half a cosine to a hundredth of the peak."""
        if progress < self.warm_up:
            return self.rate * max(progress / self.warm_up, 0.02)
        through = min((progress - self.warm_up) / (1 - self.warm_up), 1.0)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * through)))


class AveragedWeights:
    """Exponential moving average of a model's weights: what is shown and shipped."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self._parameters = list(model.parameters())
        self._average = list(self.model.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after `step` steps; early on with a shorter memory."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, self._parameters, 1 - decay)


@dataclass(frozen=True)
class Moment:
    """Where a run stands as a step begins.

    Attributes:
        step: steps done.
        progress: share of the schedule that is spent.
        generator: all of the step's randomness. It depends on seed, step and process alone, so that a run
            that was interrupted goes on as it would have.
    """

    step: int
    progress: float
    generator: torch.Generator


class _Interrupt:
    """Turns SIGTERM and SIGINT into a request to save and end."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> _Interrupt:
        numbers = (signal.SIGTERM, signal.SIGINT)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.requested = True


class _Clock:
    """Seconds of training, of a schedule that may span several calls."""

    def __init__(self, plan: Plan, spent: float) -> None:
        self.seconds = plan.seconds
        self._plan, self._before, self._mark = plan, spent, time.time()

    def start(self) -> None:
        """Counts from now on."""
        self._mark = time.time()
        if self._plan.finish and self._plan.stop_at < math.inf:
            self.seconds = self._before + max(self._plan.stop_at - self._mark, 1.0)

    @property
    def here(self) -> float:
        """Seconds of this call."""
        return time.time() - self._mark

    @property
    def progress(self) -> float:
        """Share of the schedule that is spent."""
        return (self._before + self.here) / self.seconds

    @property
    def late(self) -> bool:
        """Whether this call has to end before the schedule does."""
        return time.time() >= self._plan.stop_at and not self._plan.finish


class Loop:
    """Steps, saves and evaluates until the schedule or the call is over.

    Args:
        model: what is trained.
        optimizers: for all of its parameters; a group's ``factor`` multiplies its rate.
        processes: those that train together.
        plan: how long and how fast.
        state: the file that a run goes on from. Beside it lies a small .json with its step and seconds.
        seed: of all randomness.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        processes: Processes,
        plan: Plan,
        state: Path,
        seed: int,
    ) -> None:
        self.model = model
        self.average = AveragedWeights(model)
        self.step = 0
        self.calls = 0
        self.spent = 0.0
        self._optimizers, self._processes, self._plan, self._seed = list(optimizers), processes, plan, seed
        self._state, self._record = state, state.with_suffix(".json")
        self._first = processes.rank == 0
        self._ramp_from = -_RAMP
        self._norm = torch.zeros((), device=processes.device)
        self._generator = torch.Generator(processes.device)

    def resume(self, read_weights: Callable[[], None]) -> None:
        """Goes on from the state file; where only the shipped weights are left, from those.

        Args:
            read_weights: copies the shipped weights into `model`. The optimizers then start anew, with a
                rate that rises over a hundred steps.

        Raises:
            ToProVARError: neither is there.
        """
        if self._state.exists():
            content = torch.load(self._state, map_location=self._processes.device, weights_only=True)
            self.model.load_state_dict(content["model"])
            self.average.model.load_state_dict(content["average"])
            for optimizer, state in zip(self._optimizers, content["optimizers"], strict=True):
                optimizer.load_state_dict(state)
        elif self._record.exists():
            content = json.loads(self._record.read_text())
            read_weights()
            self.average.model.load_state_dict(self.model.state_dict())
            self._ramp_from = content["step"]
        else:
            raise ToProVARError(
                f"{self._state.parent}: neither {self._state.name} nor {self._record.name}: nothing to go on from",
                hint="name the folder of the earlier run, or leave out --resume",
            )
        self.step, self.calls, self.spent = content["step"], content["calls"], content["spent_seconds"]
        if self._first:
            report(f"resumed at step {self.step}, {self.spent:.0f} s of training spent")

    def run(
        self,
        losses: Callable[[Moment], tuple[Tensor, Callable[[], str]]],
        save_weights: Callable[[], None],
        evaluate: Callable[[bool], None],
    ) -> bool:
        """Trains until the schedule or the call is over, or a signal comes; saves in every case.

        Args:
            losses: one step's loss, and what to print of it.
            save_weights: writes `average` as the files that are shipped. The first process alone calls it.
            evaluate: shows what `average` can do, at the end of the schedule (True) or before; likewise.

        Returns:
            Whether the schedule is over.

        Raises:
            ToProVARError: loss or gradient is not finite any more. The last save is kept.
        """
        clock, first = _Clock(self._plan, self.spent), self.step
        progress, loss = clock.progress, torch.zeros_like(self._norm)
        saved = evaluated = 0.0
        self.calls += 1
        with _Interrupt() as interrupt:
            while True:
                step = self.step
                if step - first == _UNCOUNTED:
                    clock.start()
                if step - first >= _UNCOUNTED and step % _SYNC == _UNCOUNTED:
                    broken = not bool((loss + self._norm).isfinite())
                    ours = clock.progress, clock.late, interrupt.requested, broken
                    progress, late, interrupted, failed = self._processes.agree(*ours)
                    self.spent = progress * clock.seconds
                    if failed:
                        raise ToProVARError(
                            f"step {step}: loss or gradient is not finite",
                            "go on from the last save with --resume and a lower --rate",
                        )
                    if progress >= 1 or late or interrupted:
                        break
                    if self._first and clock.here - saved >= self._plan.save_every:
                        self._save(save_weights)
                        saved = clock.here
                    if self._first and clock.here - evaluated >= self._plan.evaluate_every:
                        _try(evaluate, False)
                        evaluated = clock.here
                loss, describe = self._take_step(losses, progress)
                if self._first and step % _REPORT == 0:
                    minutes, seconds = divmod(max(1 - progress, 0) * clock.seconds, 60)
                    speed = max(step - first - _UNCOUNTED, 0) / clock.here
                    report(
                        f"step {step} {progress:.0%}, {minutes:.0f}:{seconds:02.0f} left, {speed:.2f} steps/s: "
                        f"loss {loss.item():.4f} {describe()}"
                    )
            if self._first:
                self._save(save_weights)
                why = "interrupted" if interrupted else "end of the schedule" if progress >= 1 else "end of the call"
                report(f"{why} at step {self.step}, {self.spent:.0f} s of training spent, saved")
                if not interrupted:
                    _try(evaluate, progress >= 1)
            self._processes.agree()  # none reads what is not yet saved, or ends and takes the first one along
        return progress >= 1

    def _save(self, save_weights: Callable[[], None]) -> None:
        """Writes the state, the shipped weights and the record, each whole or not at all."""
        record = {"schema_version": 1, "step": self.step, "calls": self.calls, "spent_seconds": self.spent}
        state = {
            **record,
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        write_atomically({self._state: lambda path: torch.save(state, path)})
        save_weights()
        write_atomically({self._record: lambda path: path.write_text(json.dumps(record, indent=1) + "\n")})

    def _take_step(
        self, losses: Callable[[Moment], tuple[Tensor, Callable[[], str]]], progress: float
    ) -> tuple[Tensor, Callable[[], str]]:
        ramp = min((self.step + 1 - self._ramp_from) / _RAMP, 1.0)
        rate = self._plan.rate_at(progress) * ramp
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
        self._generator.manual_seed(self._seed + 1000 * self.step + self._processes.rank)
        loss, describe = losses(Moment(self.step, progress, self._generator))
        self.model.zero_grad()
        loss.backward()
        self._processes.average_gradients(self.model)
        self._norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        self.step += 1
        self.average.update(self.step)
        return loss.detach(), describe


def _try(evaluate: Callable[[bool], None], final: bool) -> None:
    try:
        evaluate(final)
    except Exception:  # whatever it is, the training is worth more than its pictures
        traceback.print_exc()


def write_atomically(writers: dict[Path, Callable[[Path], object]]) -> None:
    """Writes files beside their places first and then renames them: a reader finds each old or new, never half.

    Args:
        writers: by the file's place, what writes it to the path that it is given.
    """
    made = []
    for path, write in writers.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        made.append((temporary, path))
    for temporary, path in made:
        temporary.replace(path)


def save_half(state: dict[str, Tensor], path: Path, shard_bytes: int = 12 << 20) -> None:
    """Writes tensors in half precision as safetensors; more than `shard_bytes` become shards with an index."""
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu().clone() for k, v in state.items()}
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, tensor in half.items():
        if size + tensor.nbytes > shard_bytes and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        write_atomically({path: lambda place: save_file(half, place)})
        return
    names = [f"{path.stem}-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = json.dumps({"weight_map": weight_map}, indent=1)
    writers: dict[Path, Callable[[Path], object]] = {
        path.with_name(name): lambda place, shard=shard: save_file(shard, place)  # type: ignore[misc]
        for name, shard in zip(names, shards, strict=True)
    }
    writers[path.with_name(f"{path.name}.index.json")] = lambda place: place.write_text(index)
    write_atomically(writers)
