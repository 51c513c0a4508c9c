"""Modules made from shapes alone, whose tensors are given afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["shapes_only"]


class _WithoutInitialValues(TorchFunctionMode):
    """Draws no initial weights: there are none to see, and the attempt would load torch's compiler, for a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Within, modules are made on the meta device and take no time."""
    with torch.device("meta"), _WithoutInitialValues():
        yield
