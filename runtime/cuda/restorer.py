"""Restorations on static buffers: the model's own classes, without the copies that a functional step makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from toprovar.extensions import RESTORATIONS
from toprovar.models.restorations.base import Restoration
from toprovar.models.tokens import SortedTokens
from toprovar.runtime.cuda.layers import Stream
from toprovar.runtime.cuda.ops import PlainOps, ResizeTables
from toprovar.runtime.cuda.rows import Rows

__all__ = ["CachedUpdates", "Restorer", "guide_rows"]

CachedUpdates = tuple[list[Tensor], ResizeTables]
"""By layer what it added to the stream at another scale [R, U, C], and the way from there to this one."""


class Restorer:
    """Says what becomes of tokens that a layer does not compute.

    Args:
        name: of the restoration.
        given: what restorations read of a step's inputs.
        updates: for a restoration that reads cached updates; it does nothing else.
        rows: rows of the stream and what they belong to; the count of kept tokens is of no matter.
        ops: how to compute.
    """

    def __init__(
        self, name: str, given: Mapping[str, Tensor], updates: CachedUpdates | None, rows: Rows, ops: PlainOps
    ) -> None:
        self._type: type[Restoration] = RESTORATIONS.load(name)
        self._updates, self._rows, self._ops = updates, rows, ops
        self._restoration = self._type(given)
        table = given["rope"]
        # A stream of no channels: what a restoration remembers of places costs no copy of the tokens.
        empty = table.new_empty(rows.rows, rows.tokens, 0)
        self._bare = SortedTokens.unsorted(empty, table, rows.image_of_row(table.device))
        self._remembers = updates is None and self._speaks("restore")

    def moved(self, before: Tensor | None, after: Tensor | None) -> None:
        """Told of every order [B, L], the old and the new."""
        if self._remembers and after is not before:
            self._restoration.reorder(replace(self._bare, order=before), replace(self._bare, order=after))

    def after_layer(self, layer: int, stream: Stream, rows: Rows, order: Tensor | None) -> None:
        """Restores what a layer did not compute."""
        if self._updates is not None and rows.kept < rows.tokens:
            updates, tables = self._updates
            self._ops.restore(stream.unsettled, updates[layer], rows, tables)
        if self._remembers:
            tokens = replace(self._bare, order=order)
            self._restoration.restore(layer, tokens, tokens.x.narrow(1, 0, rows.kept), rows.kept)

    def finish(self, stream: Stream, order: Tensor | None) -> Tensor | None:
        """The hidden state [R, L, C] in the grid's order where it is not the stream itself."""
        if not self._speaks("finish"):
            return None
        tokens = replace(self._bare, x=stream.x, order=order)
        tokens = self._restoration.finish(replace(tokens, x=tokens.sorted_rows(stream.x)))
        return tokens.token_rows(tokens.x)

    def drawn(self, order: Tensor | None) -> Tensor | None:
        """1 for a token whose codes count and 0 for another, [B, L] in the grid's order; None if all do."""
        return self._restoration.drawn(replace(self._bare, order=order))

    def _speaks(self, method: str) -> bool:
        return getattr(self._type, method) is not getattr(Restoration, method)


def guide_rows(x: Tensor, halves: int, guidance: Tensor) -> Tensor:
    """Guidance inside the network: both rows of an image become the guided one; x is [R, K, C]."""
    pairs = x.unflatten(0, (-1, halves))
    guided = guidance * pairs[:, :1] + (1 - guidance) * pairs[:, -1:]
    return torch.where(guidance == 1, pairs, guided).flatten(0, 1)
