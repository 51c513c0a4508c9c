"""The static buffers of one generation: what its graphs read and write."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from toprovar.runtime.cuda.graphs import Replay
from toprovar.runtime.cuda.key import StepKey
from toprovar.runtime.cuda.observed import ObservedLayers
from toprovar.runtime.cuda.scaled import ALIGNED, Scaled
from toprovar.runtime.cuda.text_buffer import FoldedText, KeptText, TextForm

if TYPE_CHECKING:
    from toprovar.runtime.cuda.text import TextProgram

__all__ = ["Shapes", "Slot"]


@dataclass(frozen=True)
class Shapes:
    """Sizes that decide how large a slot is.

    Attributes:
        layers: number of blocks.
        width: C.
        heads: H.
        head_dim: D.
        hidden: width of the MLP.
        code_bits: d.
        code_channels: channels of the summed codes.
        latent: rows and columns of the summed codes.
        tokens: tokens of the largest scale.
        cached: tokens of all scales.
        carries_pairs: values of every bit's two logits are handed from scale to scale.
        scaled: the blocks' large products are in fp8.
        observed: what every layer of a dense step computes is kept for an observer.
    """

    layers: int
    width: int
    heads: int
    head_dim: int
    hidden: int
    code_bits: int
    code_channels: int
    latent: tuple[int, int]
    tokens: int
    cached: int
    carries_pairs: bool
    scaled: bool = False
    observed: bool = False

    def bytes_of(self, rows: int, images: int, item: int) -> dict[str, int]:
        """Bytes of a slot's parts, text left out; `item` of them an element of cache and activations."""
        activations = rows * self.tokens * (3 * self.width + self._wide) * item
        pairs = 4 * images * self.tokens * self.code_bits * 8 if self.carries_pairs else 0
        small = images * self.tokens * (self.code_bits * 5 + 16) + rows * (self.layers * 6 + 3) * self.width * 4
        if self.scaled:
            activations += rows * self.tokens * max(self.width, self.hidden)
        if self.observed:
            activations += self.layers * rows * self.tokens * (self.width * item + self.heads * 4)
        codes = 2 * images * self.code_channels * math.prod(self.latent) * 4
        return {
            "cache": self.layers * 2 * rows * self.cached * self.width * item,
            "activations": activations + pairs + small + codes,
        }

    @property
    def _wide(self) -> int:
        return max(3 * self.width, self.hidden)


class Slot:
    """Buffers for `images` images with `halves` rows each.

    Attributes:
        owners: by scale, who wrote its keys last; a state whose writers are no longer here is stale.
        update_owner: who wrote the cached updates last.
        programs: what has been run on these buffers, by kind.
        text_programs: likewise for the text, by the forms of the images' texts.
    """

    def __init__(self, shapes: Shapes, images: int, halves: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shapes, self.images, self.halves = shapes, images, halves
        self.dtype, self.device = dtype, device
        rows, tokens, width = images * halves, shapes.tokens, shapes.width
        single = torch.float32
        self.cache = [
            self.make((2, rows, shapes.heads, shapes.cached, shapes.head_dim), dtype) for _ in range(shapes.layers)
        ]
        codes = (images, shapes.code_channels, *shapes.latent)
        self.summed_in, self.summed_out = self.make(codes, single), self.make(codes, single)
        self.start = self.make((rows, 1, width), single)
        self.modulation = self.make((shapes.layers, rows, 6, width), single)
        self.head_modulation = self.make((rows, 2, width), single)
        self._stream = self.make((rows * tokens * width,), dtype)
        self._normed = self.make((rows * tokens * width,), dtype)
        self._branch = self.make((rows * tokens * width,), dtype)
        self._wide = self.make((rows * tokens * max(3 * width, shapes.hidden),), dtype)
        self._prior_in, self._prior_out, self._entropy = (self.make((images * tokens,), single) for _ in range(3))
        self._bits = self.make((images * tokens * shapes.code_bits,), torch.uint8)
        self.host_inputs = self.make((images * tokens * shapes.code_bits + 3,), single)
        pairs = images * tokens * shapes.code_bits * 2 if shapes.carries_pairs else 0
        self._pairs = {name: self.make((pairs,), single) for name in ("difference", "logits")}
        self._next_pairs = {name: self.make((pairs,), single) for name in ("difference", "logits")}
        self._scaled = self.make((rows * tokens * max(width, shapes.hidden) * shapes.scaled,), torch.float8_e4m3fn)
        self._factors = self.make(((rows * tokens + images * ALIGNED) * shapes.scaled,), single)
        observed = shapes.layers * rows * tokens * shapes.observed
        self._entropies = self.make((observed * shapes.heads,), single)
        self._hiddens = self.make((observed * width,), dtype)
        self.updates: dict[int, list[Tensor]] = {}
        self.texts: dict[TextForm, KeptText | FoldedText] = {}
        self.owners: list[object] = []
        self.update_owner: object = None
        self.programs: dict[StepKey, Replay] = {}
        self.text_programs: dict[tuple[TextForm, ...], tuple[TextProgram, Replay]] = {}

    def make(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A buffer of zeros."""
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def stream(self, rows: int, tokens: int) -> Tensor:
        """Residual stream [R, L, C]."""
        return _part(self._stream, rows, tokens, self.shapes.width)

    def normed(self, rows: int) -> Tensor:
        """What a sublayer reads, [M, C]."""
        return _part(self._normed, rows, self.shapes.width)

    def branch(self, rows: int) -> Tensor:
        """What a sublayer gives, [M, C]."""
        return _part(self._branch, rows, self.shapes.width)

    def wide(self, rows: int, width: int) -> Tensor:
        """Packed queries, keys and values, or the inside of the MLP, [M, width]."""
        return _part(self._wide, rows, width)

    def scaled(self, rows: int, width: int, parts: int) -> Scaled:
        """What an fp8 product reads, [M, width] in parts."""
        stride = -(-rows // parts // ALIGNED) * ALIGNED
        return Scaled(_part(self._scaled, rows, width), _part(self._factors, parts, stride))

    def observed(self, rows: int, tokens: int) -> ObservedLayers:
        """What the layers of a dense step of so many rows and tokens computed."""
        layers, heads, width = self.shapes.layers, self.shapes.heads, self.shapes.width
        return ObservedLayers(
            _part(self._entropies, layers, rows, heads, tokens), _part(self._hiddens, layers, rows, tokens, width)
        )

    def prior_in(self, tokens: int) -> Tensor:
        """What the scale is ranked by, [B, L]."""
        return _part(self._prior_in, self.images, tokens)

    def prior_out(self, tokens: int) -> Tensor:
        """What the next scale is ranked by, [B, L']."""
        return _part(self._prior_out, self.images, tokens)

    def entropy(self, tokens: int) -> Tensor:
        """[B, L]."""
        return _part(self._entropy, self.images, tokens)

    def bits(self, tokens: int) -> Tensor:
        """uint8 [B, L, d]."""
        return _part(self._bits, self.images, tokens, self.shapes.code_bits)

    def noise(self, tokens: int) -> Tensor:
        """[B, L, d]; guidance, temperature and certainty come before it."""
        return _part(self.host_inputs[3:], self.images, tokens, self.shapes.code_bits)

    def pairs_in(self, name: str, tokens: int) -> Tensor:
        """``difference`` or ``logits`` that were carried over, [B, L, d, 2]."""
        return _part(self._pairs[name], self.images, tokens, self.shapes.code_bits, 2)

    def pairs_out(self, name: str, tokens: int) -> Tensor:
        """What is carried over to the next scale, [B, L', d, 2]."""
        return _part(self._next_pairs[name], self.images, tokens, self.shapes.code_bits, 2)

    def update(self, scale: int, tokens: int) -> list[Tensor]:
        """By layer, what it added to the stream at a scale, [R, U, C]; made when first asked for."""
        if scale not in self.updates:
            shape = (self.images * self.halves, tokens, self.shapes.width)
            self.updates[scale] = [self.make(shape, self.dtype) for _ in range(self.shapes.layers)]
        return self.updates[scale]

    def forget_updates(self) -> None:
        """What a restoration reads before anything was cached: nothing was added."""
        for update in self.updates.get(0, []):
            update.zero_()

    def text(self, form: TextForm) -> KeptText | FoldedText:
        """The buffer, of all layers and rows, for texts of a form; made when first asked for."""
        if form not in self.texts:
            kind, shapes = FoldedText if form.folded else KeptText, self.shapes
            sizes = shapes.layers, self.images * self.halves, form.tokens, shapes.heads, shapes.head_dim
            self.texts[form] = kind.make(*sizes, self._stream)
        return self.texts[form]


def _part(flat: Tensor, *shape: int) -> Tensor:
    return flat[: math.prod(shape)].view(shape)
