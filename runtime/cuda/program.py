"""One scale as a list of kernel calls on static buffers: `toprovar.models.step` without copies.

Running it twice gives the same: what it reads and what it writes are different buffers, the cache's new keys always
have the same place, and everything else is written before it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from toprovar.models.tokens import resize
from toprovar.pruning import Pruning
from toprovar.runtime.cuda.key import StepKey
from toprovar.runtime.cuda.layers import LayerRunner, Stream
from toprovar.runtime.cuda.ops import Norm, PlainOps, Sampling, bits_to_map
from toprovar.runtime.cuda.order import TokenOrder, hands_on_more
from toprovar.runtime.cuda.restorer import CachedUpdates, Restorer, guide_rows
from toprovar.runtime.cuda.rows import Rows
from toprovar.runtime.cuda.slot import Slot
from toprovar.runtime.cuda.tables import ScaleTables, Tables
from toprovar.runtime.cuda.weights import Weights

__all__ = ["Engine", "ScaleProgram"]


@dataclass(frozen=True)
class Engine:
    """What every program of a runtime shares.

    Attributes:
        weights: the model's.
        tables: of all scales.
        pruning: what the plan fixes.
        guidance_layers: layers after whose output guidance is applied; the number of layers stands for the logits.
        factor: codes a token's side.
        ops: how to compute.
        by_image: matrix products see one image at a time.
    """

    weights: Weights
    tables: Tables
    pruning: Pruning
    guidance_layers: tuple[int, ...]
    factor: int
    ops: PlainOps
    by_image: bool


class ScaleProgram:
    """One kind of step on one slot.

    Args:
        engine: the runtime's.
        slot: buffers.
        key: which kind.
    """

    def __init__(self, engine: Engine, slot: Slot, key: StepKey) -> None:
        self._engine, self._slot, self._key, self._ops = engine, slot, key, engine.ops
        self._scale: ScaleTables = engine.tables.scales[key.scale]
        self._tokens = self._scale.tokens
        self._layers = len(engine.weights.layers)
        self._adaptive = key.kept is not None
        self._kept = (self._tokens,) * self._layers if key.kept is None else key.kept
        self._all = Rows(slot.images, key.halves, self._tokens, self._tokens)
        self._left_out = not any(self._kept)
        self._guides_logits = self._layers in engine.guidance_layers
        self._step = slot.halves // key.halves
        self._kept_tensor = torch.tensor(self._kept, device=slot.device)
        self._new_updates = self._rows_of(slot.update(key.scale, self._tokens)) if key.updates else None
        self._updates = self._cached_updates()
        observes = slot.shapes.observed and not self._adaptive
        self._observed = slot.observed(self._all.rows, self._tokens) if observes else None

    def run(self) -> None:
        """Reads the slot's inputs and writes its outputs."""
        slot, scale = self._slot, self._scale
        sampling = Sampling(slot.noise(self._tokens), slot.host_inputs[:3])
        given = self._given(sampling)
        stream = Stream(self._embedded(), self._ops)
        pruning = self._engine.pruning if self._adaptive else Pruning()
        order = TokenOrder(pruning.selector, given, self._kept, self._key.halves, self._ops)
        restores = self._updates is not None or not pruning.caches_updates
        restoration = pruning.restoration if restores else "identity"
        restorer = Restorer(restoration, given, self._updates, self._all, self._ops)
        scores = self._run_layers(stream, order, restorer, given)
        restored = restorer.finish(stream, order.positions)
        hidden = stream if restored is None else Stream(restored, self._ops)
        codes = self._sample(self._logits(hidden), sampling)
        drawn = restorer.drawn(order.positions)
        if drawn is not None:
            factor = self._engine.factor
            codes = codes * bits_to_map(drawn.unsqueeze(2).expand(-1, -1, factor**2), scale.height, factor)
        if self._left_out:
            slot.summed_out.copy_(slot.summed_in)
        else:
            added = self._by_image(lambda one: resize(one, scale.up_rows, scale.up_columns), codes)
            torch.add(slot.summed_in, added, out=slot.summed_out)
        if self._adaptive and self._key.ranks:
            self._rank(scores, order.carried(), given["prior"])

    def _given(self, sampling: Sampling) -> dict[str, Tensor]:
        """What selectors and restorations read, by the names of `toprovar.signature`."""
        scale, slot = self._scale, self._slot
        given = {
            "rope": scale.rope,
            "carry_rows": scale.carry_rows,
            "carry_columns": scale.carry_columns,
            "noise": sampling.noise,
            "kept": self._kept_tensor,
            "prior": slot.prior_in(self._tokens),
        }
        if self._engine.pruning.carries_logits:
            logits = slot.pairs_in("logits", self._tokens)
            given["carried_logits"] = logits if self._key.carried_logits else torch.zeros_like(logits)
        return given

    def _cached_updates(self) -> CachedUpdates | None:
        """The updates that are restored.

        A scale that is left out is in no image: its stream matters only to a selector that hands something of it on.
        """
        if not self._adaptive or not self._engine.pruning.caches_updates:
            return None
        start = self._key.updated_scale
        buffers = self._slot.update(start, self._engine.tables.scales[start].tokens)
        tables = self._engine.tables.resize(start, self._key.scale)
        if self._left_out and not hands_on_more(self._engine.pruning.selector):
            return None
        return self._rows_of(buffers), tables

    def _rows_of(self, buffers: list[Tensor]) -> list[Tensor]:
        """Those rows of a slot's buffers that still go on."""
        return [buffer[:: self._step] for buffer in buffers]

    def _embedded(self) -> Tensor:
        """Input of the first block, [R, L, C]: the prompt's start, or the codes so far as this scale shows them."""
        slot, scale, weights = self._slot, self._scale, self._engine.weights
        x = slot.stream(self._all.rows, self._tokens)
        level = weights.levels[self._key.scale]
        if scale.shown_rows is None or scale.shown_columns is None:
            return x.copy_(slot.start[:: self._step] + level)
        rows, columns = scale.shown_rows, scale.shown_columns

        def embed(summed: Tensor) -> Tensor:
            shown = resize(summed, rows, columns)
            if self._engine.factor > 1:
                shown = F.pixel_unshuffle(shown, self._engine.factor)
            return F.linear(shown.flatten(2).transpose(1, 2), weights.embed.weight, weights.embed.bias) + level

        x.unflatten(0, (-1, self._all.halves)).copy_(self._by_image(embed, slot.summed_in).unsqueeze(1))
        return x

    def _by_image(self, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Small products over images [B, ...], image by image where an image must not depend on its batch.

        Rankings depend on every bit: a bilinear resize makes equal values, whose order rounding decides.
        """
        return torch.cat(list(map(work, x.split(1)))) if self._engine.by_image and len(x) > 1 else work(x)

    def _run_layers(
        self, stream: Stream, order: TokenOrder, restorer: Restorer, given: dict[str, Tensor]
    ) -> list[Tensor]:
        """All blocks; returns the observers' standardised entropies [B, L] in the grid's order."""
        engine, key = self._engine, self._key
        runner = LayerRunner(
            engine.weights, self._slot, self._ops, self._scale.rope, key.text, key.halves, engine.by_image
        )
        observers = engine.pruning.observers if self._adaptive and (key.ranks or order.observes) else ()
        scores: list[Tensor] = []
        order.start(stream)
        for layer, kept in enumerate(self._kept):
            before = order.positions
            order.before_layer(layer, stream)
            restorer.moved(before, order.positions)
            rows = self._working_rows(order, kept)
            if self._new_updates is not None:
                self._new_updates[layer].copy_(stream.x)
            observe = layer in observers or self._observed is not None
            nats = runner.run(layer, stream, rows, key.past[layer], observe) if kept else None
            if layer in engine.guidance_layers:
                guidance = self._slot.host_inputs[0]
                rows.put(stream.x, guide_rows(rows.take(stream.x), key.halves, guidance))
            if self._observed is not None and nats is not None:
                self._observed.keep(layer, nats, key.past[layer] + kept, stream.x)
            if self._new_updates is not None:
                torch.sub(stream.x, self._new_updates[layer], out=self._new_updates[layer])
            restorer.after_layer(layer, stream, rows, order.positions)
            order.after_layer(layer, stream)
            if layer in observers:
                scores.append(self._score(nats, len(scores), rows, key.past[layer] + kept, given["prior"]))
                before = order.positions
                order.after_observer(scores)
                restorer.moved(before, order.positions)
        return scores

    def _working_rows(self, order: TokenOrder, kept: int) -> Rows:
        """The tokens of one layer; all of them are taken in the grid's order, whatever the ranking."""
        positions = order.positions if kept < self._tokens else None
        return Rows(self._all.images, self._all.halves, self._tokens, kept, positions)

    def _score(self, nats: Tensor | None, index: int, rows: Rows, keys: int, prior: Tensor) -> Tensor:
        """Entropy [R, H, K] of an observer to a value of every token [B, L]; `toprovar.models.step` explains it."""
        if nats is None:
            return prior
        relative = nats[:: rows.halves] / torch.log(torch.full((), float(keys), device=nats.device)).clamp_min(1e-6)
        mean, deviation = self._scale.entropy_mean[index], self._scale.entropy_deviation[index]
        score = ((relative - mean[:, None]) / deviation[:, None]).mean(1)
        return score if rows.order is None else prior.scatter(1, rows.order[:, : rows.kept], score)

    def _logits(self, hidden: Stream) -> Tensor:
        """fp32 [B, halves, L, 2 d], before temperature."""
        weights, rows = self._engine.weights, self._all
        scale, shift = self._slot.head_modulation[:: self._step].unbind(1)
        normed = self._slot.normed(rows.rows * rows.tokens)
        hidden.norm(rows, Norm(scale, shift, modulated=True), normed)
        parts = normed.chunk(rows.images if self._engine.by_image else 1)
        logits = torch.cat([self._ops.logits(part, weights.head) for part in parts])
        return logits.view(rows.images, rows.halves, rows.tokens, -1)

    def _sample(self, logits: Tensor, sampling: Sampling) -> Tensor:
        """Codes of the drawn bits [B, z, height, width]; hands on what the plan carries from scale to scale."""
        slot, pruning, ops = self._slot, self._engine.pruning, self._ops
        bits = slot.bits(self._tokens)
        if not slot.shapes.carries_pairs:
            return ops.sample(logits, sampling, self._guides_logits, self._scale.height, self._engine.factor, bits)
        scaled = logits.unflatten(-1, (-1, 2)) / sampling.scalars[1]
        carried = slot.pairs_in("difference", self._tokens) if self._key.reuses else None
        guided = ops.guide(scaled, sampling, self._guides_logits, carried)
        if pruning.reuses_guidance:
            difference = scaled[:, 0] - scaled[:, -1]
            self._carry(difference if carried is None else difference + carried, "difference")
        if pruning.carries_logits and self._adaptive:
            self._carry(guided, "logits")
        return ops.sample_guided(guided, sampling, self._scale.height, self._engine.factor, bits)

    def _carry(self, values: Tensor, name: str) -> None:
        """Values [B, L, d, 2] on the next scale's grid."""
        scale = self._scale
        grid = values.flatten(2).transpose(1, 2).unflatten(2, (scale.height, -1))
        carried = self._by_image(self._on_next_grid, grid).flatten(2).transpose(1, 2)
        self._slot.pairs_out(name, carried.shape[1]).copy_(carried.unflatten(2, (-1, 2)))

    def _rank(self, scores: list[Tensor], carried: Tensor | None, prior: Tensor) -> None:
        """Entropy of every token, averaged over observers, and what the next scale is sorted by, on its grid."""
        scale, slot = self._scale, self._slot
        values = torch.stack(scores).mean(0) if scores else prior
        slot.entropy(self._tokens).copy_(values)
        grid = (values if carried is None else carried).float().unflatten(1, (scale.height, -1)).unsqueeze(1)
        following = self._by_image(self._on_next_grid, grid).flatten(1)
        slot.prior_out(following.shape[1]).copy_(following)

    def _on_next_grid(self, grid: Tensor) -> Tensor:
        return resize(grid, self._scale.carry_rows, self._scale.carry_columns)
