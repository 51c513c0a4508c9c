"""Arrays on their way from the device to the host, waited for when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.lib.mixins import NDArrayOperatorsMixin
from torch import Tensor

from toprovar.runtime.cuda.faults import naming_faults

__all__ = ["HostCopy"]


class HostCopy(NDArrayOperatorsMixin):
    """A tensor that numpy takes for an array; copying begins at once, and reading waits for it.

    Args:
        tensor: on any device. What is queued later on the same stream may write to it.

    Attributes:
        tensor: as given, for who goes on with it on the device.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._event: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = tensor.clone()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the array."""
        return torch.empty(0, dtype=self.tensor.dtype).numpy().dtype

    def read(self) -> np.ndarray:
        """The array."""
        if self._event is not None:
            with naming_faults():
                self._event.synchronize()
            self._event = None
        return self._host.numpy()

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, place: int | Sequence[int]) -> HostCopy:
        return _Part(self, place)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.read(), dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(one) if isinstance(one, HostCopy) else one for one in inputs]
        return getattr(ufunc, method)(*arrays, **options)


class _Part(HostCopy):
    """Some of an array."""

    def __init__(self, whole: HostCopy, place: int | Sequence[int]) -> None:
        self.tensor = whole.tensor[place]
        self._whole, self._place = whole, place

    def read(self) -> np.ndarray:
        """The part."""
        part: np.ndarray = self._whole.read()[self._place]
        return part
