"""Muon for many matrices of few shapes: those of one shape are orthogonalised together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["BatchedMuon"]

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_SMALLEST_NORM = 1e-7


class BatchedMuon(torch.optim.Optimizer):
    """`torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"`` and Nesterov momentum, in a tenth of the launches.

    Torch's own takes one matrix at a time, some twenty small kernels each: for nano's 58 matrices that was
    33 ms of a step of 190 ms on an H200. Its rate carries over from AdamW: an update's root mean square is 0.2 times
    the rate ("Muon is scalable for LLM training", Liu et al., 2025).

    Args:
        params: matrices, or groups of them.
        lr: learning rate.
        weight_decay: decoupled.
        momentum: of the averaged gradient.
    """

    def __init__(self, params: Iterable[Any], lr: float, weight_decay: float = 0.1, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Updates every matrix that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                updates = torch.stack(self._momentum(parameters, group["momentum"]))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_add_(parameters, list(_orthogonalise(updates).float().unbind()), alpha=-rate)

    def _momentum(self, parameters: list[Tensor], momentum: float) -> list[Tensor]:
        """Takes the gradients into the averages; Nesterov's mixture of both."""
        gradients = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        averages = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(averages, gradients, 1 - momentum)
        return list(torch._foreach_lerp(gradients, averages, momentum))


def _orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices [N, rows, columns] with their singular values brought near 1, in bfloat16, by Newton-Schulz steps."""
    a, b, c = _COEFFICIENTS
    wide = matrices.bfloat16()
    tall = wide.shape[1] > wide.shape[2]
    wide = wide.mT if tall else wide
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=_SMALLEST_NORM)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if tall else wide
