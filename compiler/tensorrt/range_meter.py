"""Measures how large the inputs of a model's large products become while it runs."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from toprovar.compiler.tensorrt.float8 import is_large

__all__ = ["RangeMeter"]


class RangeMeter:
    """Within its `with` block, one number of every large product is kept, on the model's device.

    Args:
        backbone: the transformer; its own modules must run.

    Attributes:
        modules: names of the modules that are watched, in order.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._watched = {name: module for name, module in backbone.named_modules() if is_large(name)}
        self._largest: dict[str, Tensor] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self.modules = tuple(self._watched)

    def __enter__(self) -> Self:
        """Begins to watch."""
        for name, module in self._watched.items():
            self._hooks.append(module.register_forward_pre_hook(self._watch(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends to watch."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def largest(self) -> dict[str, float]:
        """The largest magnitude so far, by module; not a number where one was met."""
        return {name: float(value) for name, value in self._largest.items()}

    def _watch(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def watch(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            if not inputs[0].numel():
                return  # a layer that a plan leaves out
            value = inputs[0].detach().abs().amax().float()
            before = self._largest.get(name)
            self._largest[name] = value if before is None else torch.maximum(before, value)

        return watch
