"""What tells one program of a scale from another: everything that is fixed in its graph."""

from __future__ import annotations

from dataclasses import dataclass

from toprovar.runtime.cuda.text_buffer import TextForm

__all__ = ["StepKey"]


@dataclass(frozen=True)
class StepKey:
    """One kind of step.

    Attributes:
        scale: index of the scale.
        halves: rows an image.
        kept: tokens that each layer computes; None for the dense step, which hands on no entropy.
        past: keys that each layer has cached.
        ranks: somebody reads the entropy and the ranking of the next scale.
        reuses: a difference of guidance was carried over and counts.
        carried_logits: logits were carried over.
        updates: the layers' updates are to be cached.
        updated_scale: the scale whose updates are cached.
        text: forms of the images' texts.
    """

    scale: int
    halves: int
    kept: tuple[int, ...] | None
    past: tuple[int, ...]
    ranks: bool
    reuses: bool
    carried_logits: bool
    updates: bool
    updated_scale: int
    text: tuple[TextForm, ...]
