"""How ``attention_variants.py`` carries out a task on the current CUDA device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import attention_tma
import torch
from attention_variants_tasks import CHOSEN, FLOAT32, HOPPER, TMA, TRITON, Case, Shape, Task
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.runtime.jit import KernelInterface
from triton.testing import do_bench, do_bench_cudagraph

from toprovar.plugins.fae.configs import HopperConfig, TritonConfig
from toprovar.plugins.fae.launcher import launch
from toprovar.plugins.fae.reference import attention_with_entropy

__all__ = ["Bench", "Values"]

#: Figures of one task, ready for JSON.
Values = dict[str, Any]
Attention = tuple[torch.Tensor, torch.Tensor]
T = TypeVar("T")

_BACKENDS = {"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
#: From here on a launch takes so much longer than its overhead that no CUDA graph is needed.
_MANY_QUERIES = 1600


class Bench:
    """Carries out tasks, on random tensors of a fixed seed.

    Args:
        compile_only: Every launch in this process compiles its kernel and stops there, so that
            a later process finds it in Triton's cache; the figures are then meaningless.
    """

    def __init__(self, compile_only: bool = False) -> None:
        self._random = torch.Generator("cuda").manual_seed(0)
        self._inputs: tuple[Shape, tuple[torch.Tensor, ...]] | None = None
        self._median: Callable[[Callable[[], object], int], float] = _median
        if compile_only:
            _stop_launches()
            self._median = _call

    def run(self, task: Task) -> Values:
        """Carry out a task.

        Args:
            task: One of ``tasks()``.

        Returns:
            Its figures; times are medians in milliseconds.
        """
        actions = {
            "check": self._check,
            "extremes": self._extremes,
            "float32": self._float32,
            "time": self._time,
            "torch": self._torch,
        }
        with torch.no_grad():
            return actions[task.action](task)

    def _check(self, task: Task) -> Values:
        case = _given(task.case)
        dtype = getattr(torch, case.dtype)
        config = _config(task)
        source = case.queries + 37 if case.gather else case.queries
        q = (self._tensor(case, source) * 3 / math.sqrt(case.head_dim)).to(dtype)
        pieces = [(self._tensor(case, n).to(dtype), self._tensor(case, n).to(dtype)) for n in case.pieces]
        index = None
        if case.gather:
            orders = [torch.randperm(source, generator=self._random, device="cuda") for _ in range(case.batch)]
            index = torch.stack([order[: case.queries] for order in orders])
        blank = torch.full((case.batch, case.queries, case.heads, case.head_dim), math.nan, device="cuda", dtype=dtype)
        output = blank.transpose(1, 2)

        def attend() -> Attention:
            return launch(q, pieces, output, index, config=config)

        first = tuple(tensor.clone() for tensor in attend())
        torch.cuda.synchronize()
        repeatable = all(all(map(torch.equal, first, attend())) for _ in range(3))
        if index is not None:
            q = q.gather(2, index[:, None, :, None].expand(-1, case.heads, -1, case.head_dim))
        keys, values = (torch.cat(parts, 2) for parts in zip(*pieces, strict=True))
        errors = _errors((first[0], first[1]), q, keys, values)
        bounds = (1e-5, 1e-5)
        if case.dtype != "float32":
            bounds = (2 * max(errors["plain_output"], 1e-5), 2 * max(errors["plain_entropy"], 1e-5))
        # Written so that a result that is not a number is wrong.
        right = errors["output"] <= bounds[0] and errors["entropy"] <= bounds[1]
        return {
            **errors,
            "output_bound": bounds[0],
            "entropy_bound": bounds[1],
            "repeatable": repeatable,
            "ok": right and repeatable,
        }

    def _extremes(self, task: Task) -> Values:
        config = _config(task)
        q, k, v = (self._normal(1, 2, 200, 128).bfloat16() for _ in range(3))

        def attend(q: torch.Tensor, k: torch.Tensor) -> Attention:
            return launch(q, ((k, v),), torch.empty_like(q), config=config)

        def spoilt(head: int, key: int, value: float) -> torch.Tensor:
            keys = k.clone()
            keys[0, head, key, 3] = value
            return keys

        uniform = attend(q, k * 0)[1]
        # Every score is 1e4, exact in bfloat16.
        large = attend(q * 0 + 100, k * 0 + 0.78125)[1]
        peaked = attend(q * 1000, k * 10)
        expected = attention_with_entropy((q * 1000).double(), (k * 10).double(), v.double())
        nan = attend(q, spoilt(0, 7, math.nan))
        inf = attend(q, spoilt(1, 190, math.inf))
        return {
            "uniform": _worst(uniform, torch.full_like(uniform, math.log(200))),
            "uniform_1e4": _worst(large, torch.full_like(large, math.log(200))),
            "one_hot_output": _worst(peaked[0], expected[0]),
            "one_hot_entropy": _worst(peaked[1], expected[1]),
            "nan_spreads": not any(bool(tensor[0, 0].isfinite().any()) for tensor in nan),
            "nan_stays_in_head": bool(nan[1][0, 1].isfinite().all()),
            "inf_spreads": not bool(inf[1][0, 1].isfinite().any()),
        }

    def _float32(self, task: Task) -> Values:
        shape, config = _given(task.shape), _config(task)
        q = self._normal(shape.batch, shape.heads, shape.queries, shape.head_dim) * 3 / math.sqrt(shape.head_dim)
        k, v = (self._normal(shape.batch, shape.heads, shape.keys, shape.head_dim) for _ in range(2))

        def attend() -> Attention:
            return launch(q, ((k, v),), torch.empty_like(q), config=config)

        return {**_errors(attend(), q, k, v), "ms": self._median(attend, shape.queries)}

    def _time(self, task: Task) -> Values:
        shape = _given(task.shape)
        q, k, v = self._sample(shape)
        if task.kernel == "tma":
            tiles = TMA[task.variant]
            return {"ms": self._median(lambda: attention_tma.attend(q, k, v, *tiles), shape.queries)}
        output, config = torch.empty_like(q), _config(task)

        def attend() -> Attention:
            return launch(q, ((k, v),), output, entropy=task.entropy, config=config)

        return {"ms": self._median(attend, shape.queries)}

    def _torch(self, task: Task) -> Values:
        shape = _given(task.shape)
        q, k, v = self._sample(shape)
        figures: Values = {}
        for name, backend in _BACKENDS.items():
            try:
                with sdpa_kernel(backend):
                    figures[name] = self._median(
                        lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0), shape.queries
                    )
            except RuntimeError as error:
                figures[f"{name}_error"] = repr(error)[:200]
        return figures

    def _normal(self, *size: int) -> torch.Tensor:
        return torch.randn(*size, device="cuda", generator=self._random)

    def _tensor(self, case: Case, rows: int) -> torch.Tensor:
        """A tensor [batch, heads, rows, head_dim] that lies in memory as the case says."""
        sizes = {"b": case.batch, "h": case.heads, "l": rows, "d": case.head_dim}
        tensor = self._normal(*(sizes[axis] for axis in case.layout))
        return tensor.permute(*(case.layout.index(axis) for axis in "bhld"))

    def _sample(self, shape: Shape) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values in bfloat16, laid out as the models have them."""
        if self._inputs is None or self._inputs[0] != shape:
            self._inputs = None

            def tensor(rows: int, scale: float = 1.0) -> torch.Tensor:
                values = self._normal(shape.batch, rows, shape.heads, shape.head_dim) * scale
                return values.bfloat16().transpose(1, 2)

            scale = 3 / math.sqrt(shape.head_dim)
            self._inputs = shape, (tensor(shape.queries, scale), tensor(shape.keys), tensor(shape.keys))
        return self._inputs[1]


def _given(value: T | None) -> T:
    if value is None:
        raise ValueError("the task lacks its case or its shape, but its action needs it")
    return value


def _config(task: Task) -> TritonConfig | HopperConfig | None:
    if task.variant == CHOSEN:
        return None
    if task.kernel == "hopper":
        return HopperConfig(**HOPPER[task.variant])
    if task.variant in FLOAT32:
        return TritonConfig(*FLOAT32[task.variant])
    return TritonConfig(*TRITON[task.variant])


def _worst(result: torch.Tensor, expected: torch.Tensor) -> float:
    return (result.double() - expected).abs().max().item()


def _errors(result: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Values:
    """Largest differences from the float64 reference, of a result and of plain torch in the inputs' dtype."""
    output, entropy = attention_with_entropy(q.double(), k.double(), v.double())
    weights = torch.softmax(q @ k.transpose(-1, -2), -1)
    return {
        "output": _worst(result[0], output),
        "entropy": _worst(result[1], entropy),
        "plain_output": _worst(weights @ v, output),
        "plain_entropy": _worst(-torch.special.xlogy(weights, weights).sum(-1), entropy),
    }


def _median(attend: Callable[[], object], queries: int) -> float:
    attend()
    torch.cuda.synchronize()
    if queries >= _MANY_QUERIES:
        return float(do_bench(attend, warmup=30, rep=120, return_mode="median"))
    return float(do_bench_cudagraph(attend, rep=20, return_mode="median"))


def _call(attend: Callable[[], object], queries: int) -> float:
    attend()
    return 0.0


def _stop_launches() -> None:
    def compiler(kernel: Any, grid: Any) -> Callable[..., object]:
        return lambda *args, **options: kernel.run(*args, grid=grid, warmup=True, **options)

    KernelInterface.__getitem__ = compiler
