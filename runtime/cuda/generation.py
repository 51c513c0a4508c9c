"""What the torch backend's state holds of a generation that the runtime carries out."""

from __future__ import annotations

from dataclasses import dataclass

from toprovar.errors import BackendError
from toprovar.runtime.cuda.slot import Slot
from toprovar.runtime.cuda.text_buffer import TextForm

__all__ = ["Handle"]


@dataclass(frozen=True)
class Handle:
    """A generation between two scales; its keys lie in a slot that others may have written to since.

    Attributes:
        slot: where its keys are.
        halves: rows an image that go on, at most the slot's.
        text: forms of the images' texts.
        past: keys that each layer has cached.
        owners: one object a scale that has run, which the slot holds as long as the keys are this generation's.
        update_owner: likewise for cached updates.
    """

    slot: Slot
    halves: int
    text: tuple[TextForm, ...]
    past: tuple[int, ...]
    owners: tuple[object, ...]
    update_owner: object = None

    def check(self) -> None:
        """Refuses a state that is out of date.

        Raises:
            BackendError: another generation has taken the slot, or the scale was run again from an earlier state.
        """
        slot = self.slot
        mine = len(slot.owners) >= len(self.owners) and all(
            own is held for own, held in zip(self.owners, slot.owners, strict=False)
        )
        if not mine or self.update_owner is not slot.update_owner:
            raise BackendError(
                f"this generation, at scale {len(self.owners)}, was given up when another was begun",
                "finish one before the next, or open a session for each",
            )

    def claim(self, past: tuple[int, ...], updates: bool) -> Handle:
        """The generation after one more scale, which the slot belongs to from now on."""
        owner = object()
        depth = len(self.owners)
        self.slot.owners[depth:] = [owner]
        if updates:
            self.slot.update_owner = owner
        return Handle(
            self.slot, self.halves, self.text, past, (*self.owners, owner), owner if updates else self.update_owner
        )
