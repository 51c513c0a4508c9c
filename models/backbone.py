"""What a transformer offers to the scale step, whatever its family.

`toprovar.models.step` calls nothing else, so a new family is one file with a class of this shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Attend", "Backbone", "BackboneConfig", "Condition"]

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Self-attention as its caller wants it: (layer, query, key, value [R, H, L, D]) to output [R, H, L, D].

The caller owns the cache and observes; queries arrive scaled, so the softmax scale is 1."""


@dataclass(frozen=True)
class Condition:
    """What one prompt gives to every scale; R rows, T text tokens.

    Attributes:
        start: [R, 1, C] input of the first scale.
        modulation: [R, 6, C] shared part of the blocks' gains, scales and shifts.
        head_modulation: [R, 2, C] scale and shift before the head.
        text_keys: per layer [R, H, T, D].
        text_values: per layer [R, H, T, D].
        text_bias: [R, 1, 1, T], 0 for a token and the most negative number for padding.
    """

    start: Tensor
    modulation: Tensor
    head_modulation: Tensor
    text_keys: list[Tensor]
    text_values: list[Tensor]
    text_bias: Tensor


class BackboneConfig(Protocol):
    """The sizes that a step needs."""

    @property
    def depth(self) -> int:
        """Number of blocks."""


class Backbone(Protocol):
    """A next-scale transformer, one scale at a time; shapes as in `toprovar.signature`."""

    @property
    def config(self) -> BackboneConfig:
        """Its sizes."""

    def encode_condition(self, features: Tensor, mask: Tensor) -> Condition:
        """Text features [R, T, channels] with mask [R, T] to what every scale reads."""

    def embed_scale(self, x: Tensor, scale: Tensor) -> Tensor:
        """Marks the input [R, L, C] of a scale with its index."""

    def block(self, layer: int, x: Tensor, condition: Condition, rope: Tensor, attend: Attend) -> Tensor:
        """One block over the tokens [R, K, C] that it computes."""

    def logits(self, x: Tensor, condition: Condition) -> Tensor:
        """Hidden state [R, L, C] to logits of 0 and 1 for every bit, [R, L, bits, 2]."""

    def embed_codes(self, codes: Tensor) -> Tensor:
        """Summed codes [B, L, bits], resized to a scale, to its input [B, L, C]."""
