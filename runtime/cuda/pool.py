"""Slots by size: a generation takes a free one, and gives it back by being forgotten."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

from toprovar.errors import BackendError
from toprovar.runtime.cuda.generation import Handle
from toprovar.runtime.cuda.slot import Slot

__all__ = ["SlotPool"]


class _Tenancy:
    """Who is in a slot: the last state of its generation, and the thread that it runs in."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.holder: weakref.ref[Handle] | None = None
        self.thread: weakref.ref[threading.Thread] | None = None

    def busy(self, scales: int) -> bool:
        """Whether a generation goes on in it."""
        holder = self.holder() if self.holder is not None else None
        return holder is not None and len(holder.owners) < scales

    def elsewhere(self) -> bool:
        """Whether its generation's thread is another one, and lives."""
        thread = self.thread() if self.thread is not None else None
        return thread is not None and thread is not threading.current_thread() and thread.is_alive()


class SlotPool:
    """Makes, lends and drops slots.

    Args:
        make: makes a slot of so many images and rows an image.
        fits: whether memory is left for another one of that size.
        scales: scales of a generation; after the last its slot is free.
    """

    def __init__(self, make: Callable[[int, int], Slot], fits: Callable[[int, int], bool], scales: int) -> None:
        self._make, self._fits, self._scales = make, fits, scales
        self._tenancies: list[_Tenancy] = []

    def acquire(self, images: int, halves: int, takes: bool = True) -> Slot:
        """A slot that nobody goes on with.

        A thread may have several generations: the parts of a batch, or some that it will not finish. Where memory is
        short, idle slots of other sizes are dropped; then one of its own generations gives way, which says so at its
        next step.

        Args:
            images: that run together.
            halves: rows an image.
            takes: a generation may give way.

        Raises:
            BackendError: a generation of another thread is running.
        """
        if any(one.busy(self._scales) and one.elsewhere() for one in self._tenancies):
            raise BackendError(
                "a generation is running in another thread, and a session runs one at a time",
                "wait for it to finish, or run both in one call as a batch",
            )
        fitting = [one for one in self._tenancies if (one.slot.images, one.slot.halves) == (images, halves)]
        free = next((one for one in fitting if not one.busy(self._scales)), None)
        if free is None and not self._fits(images, halves):
            self._drop_idle()
            if not self._fits(images, halves):
                free = next(iter(fitting), None) if takes else None
        if free is None:
            free = _Tenancy(self._make(images, halves))
            self._tenancies.append(free)
        free.slot.owners.clear()
        free.slot.update_owner = None
        return free.slot

    def hold(self, handle: Handle) -> Handle:
        """Notes that a generation goes on in its slot."""
        for one in self._tenancies:
            if one.slot is handle.slot:
                one.holder, one.thread = weakref.ref(handle), weakref.ref(threading.current_thread())
        return handle

    def clear(self) -> None:
        """Forgets all slots; generations that hold one keep it alive until they are forgotten."""
        self._drop(self._tenancies)

    def _drop_idle(self) -> None:
        self._drop([one for one in self._tenancies if not one.busy(self._scales)])

    def _drop(self, dropped: list[_Tenancy]) -> None:
        for one in dropped:
            one.slot.owners.clear()
            one.slot.programs.clear()  # which hold their slot
            one.slot.text_programs.clear()
        self._tenancies = [one for one in self._tenancies if one not in dropped]
