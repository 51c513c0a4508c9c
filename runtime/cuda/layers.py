"""The blocks of one scale as a list of kernel calls on static buffers."""

from __future__ import annotations

from torch import Tensor

from toprovar.runtime.cuda.ops import Branch, Norm, PlainOps
from toprovar.runtime.cuda.rows import Rows
from toprovar.runtime.cuda.scaled import Scaled, ScaledLinear
from toprovar.runtime.cuda.slot import Slot
from toprovar.runtime.cuda.text_buffer import FoldedText, KeptText, TextForm
from toprovar.runtime.cuda.weights import LayerWeights, Linear, Weights

__all__ = ["LayerRunner", "Stream"]


class Stream:
    """The residual stream; what a sublayer adds waits until it is known what is normed next.

    Args:
        x: [R, L, C].
        ops: how to compute.
    """

    def __init__(self, x: Tensor, ops: PlainOps) -> None:
        self._x, self._ops = x, ops
        self._waiting: Branch | None = None

    @property
    def x(self) -> Tensor:
        """The stream, with everything added."""
        self.settle()
        return self._x

    @property
    def unsettled(self) -> Tensor:
        """The stream, for who touches no token that something may wait for."""
        return self._x

    def settle(self) -> None:
        """Adds what waits."""
        if self._waiting is not None:
            self._ops.update_norm(self._x, self._waiting, self._waiting.rows, None, None)
            self._waiting = None

    def add(self, values: Tensor, gain: Tensor | None, rows: Rows) -> None:
        """Adds a branch, by and by."""
        self.settle()
        self._waiting = Branch(values, gain, rows)

    def norm(self, rows: Rows, norm: Norm, out: Tensor | Scaled) -> None:
        """Normed tokens into `out` [R * K, C]; in one pass with what waits, if that is for the same tokens."""
        if self._waiting is not None and not self._waiting.rows.same(rows):
            self.settle()
        self._ops.update_norm(self._x, self._waiting, rows, norm, out)
        self._waiting = None


class LayerRunner:
    """Runs blocks of one step.

    Args:
        weights: the model's.
        slot: buffers.
        ops: how to compute.
        rope: [2, L, D / 2].
        text: forms of the images' texts.
        halves: rows an image, at most the slot's.
        by_image: matrix products see one image at a time.
    """

    def __init__(
        self,
        weights: Weights,
        slot: Slot,
        ops: PlainOps,
        rope: Tensor,
        text: tuple[TextForm, ...],
        halves: int,
        by_image: bool,
    ) -> None:
        self._weights, self._slot, self._ops, self._rope = weights, slot, ops, rope
        self._texts = [
            slot.text(form).rows(slice(image * slot.halves, (image + 1) * slot.halves, slot.halves // halves))
            for image, form in enumerate(text)
        ]
        self._step = slot.halves // halves
        self._parts = slot.images if by_image else 1

    def modulation(self, layer: int) -> Tensor:
        """Gains, scales and shifts of a layer, fp32 [R, 6, C]."""
        return self._slot.modulation[layer, :: self._step]

    def run(self, layer: int, stream: Stream, rows: Rows, past: int, observe: bool) -> Tensor | None:
        """One block; returns the entropy in nats, fp32 [R, H, K], if asked for."""
        weights, slot, width = self._weights.layers[layer], self._slot, self._slot.shapes.width
        count = rows.rows * rows.kept
        gain1, gain2, scale1, scale2, shift1, shift2 = self.modulation(layer).unbind(1)
        plain, branch = slot.normed(count), slot.branch(count)

        normed = self._operand(count, width) if slot.shapes.scaled else plain
        stream.norm(rows, Norm(scale1, shift1, modulated=True), normed)
        packed = slot.wide(count, 3 * width)
        self._linear(normed, weights.qkv, packed)
        nats = self._attend(layer, packed, weights.gain, rows, past, observe, plain)
        self._linear(self._rounded(plain), weights.proj, branch)
        stream.add(branch, gain1, rows)

        stream.norm(rows, Norm(weights.norm[:1], weights.norm[1:], modulated=False), plain)
        adds = rows.everything and any(isinstance(text, FoldedText) for text in self._texts)
        target = stream.x.flatten(0, 1) if adds else branch
        for text, own, out in zip(self._texts, plain.chunk(slot.images), target.chunk(slot.images), strict=True):
            self._read_text(text.layer(layer), weights, own, out, adds)
        if not adds:
            stream.add(branch, None, rows)

        stream.norm(rows, Norm(scale2, shift2, modulated=True), normed)
        inner = slot.wide(count, slot.shapes.hidden)
        self._linear(self._inner(normed, weights.fc1, inner), weights.fc2, branch)
        stream.add(branch, gain2, rows)
        return nats

    def _read_text(
        self, text: KeptText | FoldedText, weights: LayerWeights, x: Tensor, out: Tensor, adds: bool
    ) -> None:
        """Attention of one image's tokens [M, C] to its text, projections included, into or added to `out` [M, C]."""
        ops, shapes = self._ops, self._slot.shapes
        rows = len(text.keys)
        if isinstance(text, FoldedText):
            scores = self._slot.wide(len(x), text.keys.shape[1])
            given, work, result = (part.view(rows, -1, part.shape[1]) for part in (x, scores, out))
            ops.attend_folded(given, text, work, result, adds)
            return
        query = self._slot.wide(len(x), shapes.width)
        ops.linear(x, weights.query, query)
        given, read = (part.view(rows, -1, shapes.heads, shapes.head_dim) for part in (query, x))
        ops.attend_text(given, text, read)
        if adds:
            # To the bits that the norm which follows would have stored, had it added this image's share.
            out += ops.linear(x, weights.cross, query)
        else:
            ops.linear(x, weights.cross, out)

    def _operand(self, count: int, width: int) -> Scaled:
        return self._slot.scaled(count, width, self._parts)

    def _rounded(self, x: Tensor) -> Tensor | Scaled:
        """What the next large product reads instead of `x`."""
        if not self._slot.shapes.scaled:
            return x
        out = self._operand(*x.shape)
        self._ops.round(x, out)
        return out

    def _inner(self, x: Tensor | Scaled, layer: Linear | ScaledLinear, inner: Tensor) -> Tensor | Scaled:
        """The inside of the MLP after GELU, which without fp8 is done by the product."""
        if isinstance(x, Scaled):
            self._linear(x, layer, inner)
            out = self._operand(*inner.shape)
            self._ops.gelu_round(inner, out)
            return out
        for part, result in zip(x.chunk(self._parts), inner.chunk(self._parts), strict=True):
            self._ops.gelu_linear(part, layer, result)
        return inner

    def _linear(self, x: Tensor | Scaled, layer: Linear | ScaledLinear, out: Tensor) -> None:
        """A product, image by image if that is asked for."""
        if isinstance(layer, ScaledLinear):
            for scaled, result in zip(x.parts(), out.chunk(self._parts), strict=True):
                self._ops.scaled_linear(scaled, layer, result)
        else:
            for part, result in zip(x.chunk(self._parts), out.chunk(self._parts), strict=True):
                self._ops.linear(part, layer, result)

    def _heads(self, x: Tensor, rows: Rows) -> Tensor:
        shapes = self._slot.shapes
        return x.view(rows.rows, rows.kept, -1, shapes.heads, shapes.head_dim)

    def _attend(
        self, layer: int, packed: Tensor, gain: Tensor, rows: Rows, past: int, observe: bool, out: Tensor
    ) -> Tensor | None:
        """Self-attention without its projections, into `out` [M, C]; returns the entropy if asked for."""
        qkv = self._heads(packed, rows)
        keys, values = self._slot.cache[layer][:, :: self._step]
        self._ops.rotate_and_store(qkv, gain, self._rope, rows, keys, values, past)
        end = past + rows.kept
        given = qkv[:, :, 0].transpose(1, 2), keys[:, :, :end], values[:, :, :end], self._heads(out, rows)[:, :, 0]
        if observe:
            return self._ops.attend_with_entropy(*given, rows.images)
        self._ops.attend(*given, rows.images)
        return None
