"""The buffers of one generation, at addresses that never change: a cache by token, and what goes from scale to scale.

Every layer's keys lie in one piece, [tokens, R, H, D]; an engine reads the first P of them and writes those of its
scale right behind. Every other tensor has a buffer for each scale, so that an earlier state can be gone on from.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from toprovar.errors import BackendError

__all__ = ["ALIGNMENT", "Cached", "Lease", "Slot", "SlotPool", "address"]

ALIGNMENT = 256
"""Bytes; an engine's output must begin at a multiple."""


def address(tensor: Tensor) -> int:
    """Where a tensor begins; torch says 0 of an empty one, which an engine does not take."""
    return int(tensor.untyped_storage().data_ptr() + tensor.storage_offset() * tensor.itemsize)


@dataclass(frozen=True)
class Cached:
    """Keys or values of a layer so far, [P, R, H, D]."""

    tensor: Tensor

    def take(self, rows: Sequence[int]) -> Cached:
        """A copy of some rows."""
        return Cached(self.tensor[:, torch.tensor(list(rows), device=self.tensor.device)])


class Tenant:
    """Lives as long as some state of its generation."""


@dataclass(frozen=True)
class Lease:
    """A generation's hold on its slot.

    Attributes:
        slot: where its tensors are.
        tenant: shared by all states of the generation.
        writers: one object for each scale that has run, which the slot holds as long as nobody ran it again.
    """

    slot: Slot
    tenant: Tenant
    writers: tuple[object, ...]

    def check(self) -> None:
        """Refuses a state whose tensors were written over.

        Raises:
            BackendError: a scale before it was run again from an earlier state.
        """
        held = self.slot.writers[: len(self.writers)]
        if len(held) < len(self.writers) or any(own is not one for own, one in zip(self.writers, held, strict=True)):
            raise BackendError(
                f"the state at scale {len(self.writers)} is out of date: an earlier scale was run again",
                "go on from the newest state",
            )

    def after(self, scale: int) -> Lease:
        """The hold after a scale has run."""
        written = object()
        self.slot.writers[scale:] = [written]
        return Lease(self.slot, self.tenant, (*self.writers[:scale], written))


class Slot:
    """Buffers for R rows.

    Args:
        rows: R.
        capacity: tokens that a layer's cache holds, by layer.
        token: shape of a row's key, (H, D).
        dtype: of the cache.
        device: where.

    Attributes:
        writers: by scale, who ran it last.
    """

    def __init__(
        self, rows: int, capacity: Sequence[int], token: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.rows, self.device = rows, device
        self.writers: list[object] = []
        self._cache = {
            f"{part}.{layer}": torch.zeros((max(tokens, 1), rows, *token), dtype=dtype, device=device)
            for layer, tokens in enumerate(capacity)
            for part in ("key", "value")
        }
        self._buffers: dict[tuple[object, ...], Tensor] = {}
        self._own: set[int] = set()
        self.in_place = rows * token[0] * token[1] * dtype.itemsize % ALIGNMENT == 0

    def past(self, name: str, tokens: int) -> Tensor:
        """The first tokens of a cache, such as `key.3`."""
        return self._cache[name][:tokens]

    def behind(self, name: str, past: int, tokens: int) -> Tensor:
        """What follows the past.

        Raises:
            BackendError: there is no room.
        """
        whole = self._cache[name]
        if past + tokens > len(whole):
            raise BackendError(
                f"the cache of {name} holds {len(whole)} tokens, not {past + tokens}", "begin a generation anew"
            )
        # Of no tokens, a slice at the end would have no address.
        return whole[past : past + tokens] if tokens else whole[:0]

    def buffer(self, name: str, when: object, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A buffer for a name at a scale, or whatever tells it from others; always the same one."""
        key = (name, when, shape, dtype)
        if key not in self._buffers:
            # An address is wanted even where nothing is stored.
            flat = torch.zeros(max(1, torch.Size(shape).numel()), dtype=dtype, device=self.device)
            self._buffers[key] = flat[: torch.Size(shape).numel()].view(shape)
            self._own.add(address(flat))
        return self._buffers[key]

    def keep(self, name: str, when: object, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """The tensor itself if it lies in a buffer of this slot, else a copy that does."""
        if address(tensor) in self._own and tensor.dtype == dtype:
            return tensor
        return self.buffer(name, when, tuple(tensor.shape), dtype).copy_(tensor)


class SlotPool:
    """Slots by size; a generation gives its own back by being forgotten.

    Args:
        capacity: tokens by layer.
        token: shape of a row's key, (H, D).
        dtype: of the cache.
        device: where.
    """

    def __init__(
        self, capacity: Sequence[int], token: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._made = (capacity, token, dtype, device)
        self._slots: list[tuple[Slot, weakref.ref[Tenant]]] = []

    def lease(self, rows: int, past: Mapping[str, Tensor], scale: int) -> Lease:
        """A slot that nobody holds, with a past copied into it.

        Args:
            rows: R.
            past: by cache, such as `key.3`, [P, R, H, D].
            scale: that is to run next.
        """
        tenant = Tenant()
        free = next((i for i, (slot, held) in enumerate(self._slots) if slot.rows == rows and held() is None), None)
        if free is None:
            self._slots.append((Slot(rows, *self._made), weakref.ref(tenant)))
            free = len(self._slots) - 1
        slot = self._slots[free][0]
        self._slots[free] = slot, weakref.ref(tenant)
        for name, tensor in past.items():
            slot.past(name, len(tensor)).copy_(tensor)
        slot.writers[:] = [object() for _ in range(scale)]
        return Lease(slot, tenant, tuple(slot.writers))

    def clear(self) -> None:
        """Forgets all slots."""
        self._slots.clear()
