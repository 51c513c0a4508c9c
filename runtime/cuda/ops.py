"""What a scale is made of, in plain torch: the reference of every fused kernel, and what runs without a GPU.

R rows, L tokens of the scale, K computed ones, C width, H heads, D head dimension, T text tokens, d bits a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from toprovar.models.bsq_vae import codes_from_bits
from toprovar.models.step import sample_bits
from toprovar.models.tokens import ascending, resize
from toprovar.plugins.fae.torch_op import flash_attention_entropy
from toprovar.runtime.cuda.rows import Rows
from toprovar.runtime.cuda.scaled import Scaled, ScaledLinear
from toprovar.runtime.cuda.text_buffer import FoldedText, KeptText
from toprovar.runtime.cuda.weights import Linear

__all__ = ["Branch", "Norm", "PlainOps", "ResizeTables", "Sampling", "bits_to_map"]

_EPS = 1e-6


@dataclass(frozen=True)
class Norm:
    """What follows a layer norm: ``x * scale + shift``, or ``x * (1 + scale) + shift``.

    Attributes:
        scale: fp32 [R, C], or [1, C] for all rows.
        shift: likewise.
        modulated: one is added to the scale.
    """

    scale: Tensor
    shift: Tensor
    modulated: bool


@dataclass(frozen=True)
class Branch:
    """What a sublayer adds to the stream.

    Attributes:
        values: [R * K, C].
        gain: fp32 [R, C] that multiplies it, or None.
        rows: the tokens that it is for.
    """

    values: Tensor
    gain: Tensor | None
    rows: Rows


@dataclass(frozen=True)
class ResizeTables:
    """A bilinear resize of a grid, as matrices [h', h] and [w', w], and as two neighbours a row and column.

    Attributes:
        rows: fp32 [h', h].
        columns: fp32 [w', w].
        row_low: int32 [h'], the nearer-to-zero neighbour; the other is the next one, or itself at the border.
        row_weight: fp32 [h'] of the other.
        column_low: int32 [w'].
        column_weight: fp32 [w'].
    """

    rows: Tensor
    columns: Tensor
    row_low: Tensor
    row_weight: Tensor
    column_low: Tensor
    column_weight: Tensor


@dataclass(frozen=True)
class Sampling:
    """How bits are drawn from logits.

    Attributes:
        noise: fp32 [B, L, d].
        scalars: fp32 [3]: guidance, temperature, which divides the logits, and the difference of logits from which a
            bit is not drawn.
    """

    noise: Tensor
    scalars: Tensor


def bits_to_map(bits: Tensor, height: int, factor: int) -> Tensor:
    """[B, L, d] to [B, d / factor^2, height * factor, ...]."""
    grid = bits.transpose(1, 2).unflatten(2, (height, -1))
    return F.pixel_shuffle(grid, factor) if factor > 1 else grid


class PlainOps:
    """Every step of a scale in plain torch."""

    def linear(self, x: Tensor, layer: Linear, out: Tensor) -> Tensor:
        """Rows [M, in] to [M, out], into `out`."""
        return torch.addmm(layer.bias, x, layer.weight.t(), out=out)

    def gelu_linear(self, x: Tensor, layer: Linear, out: Tensor) -> Tensor:
        """The same, followed by tanh-GELU."""
        return out.copy_(F.gelu(self.linear(x, layer, out), approximate="tanh"))

    def scaled_linear(self, x: Scaled, layer: ScaledLinear, out: Tensor) -> Tensor:
        """Rows [M, in] of one part in fp8 to [M, out], into `out`."""
        product = (x.values.float() @ layer.weight.values.float().t()) * x.column * layer.weight.column.t()
        return out.copy_(product + layer.bias.float())

    def round(self, x: Tensor, out: Scaled) -> None:
        """A matrix [M, C] to fp8."""
        out.put(x)

    def gelu_round(self, x: Tensor, out: Scaled) -> None:
        """The same after tanh-GELU."""
        out.put(F.gelu(x.float(), approximate="tanh"))

    def logits(self, x: Tensor, head: Linear) -> Tensor:
        """Rows [M, C] to fp32 logits [M, 2 d]."""
        return (x @ head.weight.t()).float() + head.bias

    def update_norm(
        self, x: Tensor, branch: Branch | None, rows: Rows, norm: Norm | None, out: Tensor | Scaled | None
    ) -> None:
        """Adds a branch to the stream [R, L, C] and norms what is computed next.

        Args:
            x: the stream, changed in place.
            branch: what is added; its rows are those that are normed, where both are given.
            rows: tokens to norm.
            norm: gain and shift after the norm; None norms nothing.
            out: [R * K, C], in fp8 where that is what is read next.
        """
        if branch is not None:
            own = branch.values.view(rows.rows, rows.kept, -1)
            if branch.gain is not None:
                own = branch.gain.unsqueeze(1) * own
            rows.put(x, rows.take(x) + own)
        if norm is not None:
            working = rows.take(x)
            normed = F.layer_norm(working.float(), working.shape[-1:], eps=_EPS)
            scale = (1 + norm.scale) if norm.modulated else norm.scale
            normed = (normed * scale.unsqueeze(1) + norm.shift.unsqueeze(1)).flatten(0, 1)
            if isinstance(out, Scaled):
                out.put(normed)
            else:
                out.copy_(normed)

    def rotate_and_store(
        self, qkv: Tensor, gain: Tensor, rope: Tensor, rows: Rows, keys: Tensor, values: Tensor, past: int
    ) -> None:
        """Norms and rotates queries, in place, and keys, into the cache with the values.

        Args:
            qkv: packed [R, K, 3, H, D].
            gain: of the queries, fp32 [H].
            rope: [2, L, D / 2] in token order.
            rows: the computed tokens.
            keys: the layer's cache [R, H, total, D].
            values: likewise.
            past: tokens that are cached already.
        """
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
        index = rows.index()
        table = rope[:, : rows.kept] if index is None else rope[:, index].unsqueeze(2)
        query.copy_(_rotate(F.normalize(query.float(), dim=-1, eps=1e-12) * gain.view(-1, 1, 1), table))
        new = slice(past, past + rows.kept)
        keys[:, :, new] = _rotate(F.normalize(key.float(), dim=-1, eps=1e-12), table).to(keys.dtype)
        values[:, :, new] = value

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, out: Tensor, images: int) -> None:
        """Attention of [R, H, K, D] queries, which are scaled, into `out` [R, K, H, D].

        Args:
            query: queries.
            keys: [R, H, P + K, D].
            values: likewise.
            out: where to write.
            images: number of images.
        """
        out.copy_(F.scaled_dot_product_attention(query, keys, values, scale=1.0).transpose(1, 2))

    def attend_with_entropy(self, query: Tensor, keys: Tensor, values: Tensor, out: Tensor, images: int) -> Tensor:
        """The same; returns the entropy in nats, fp32 [R, H, K]."""
        output, entropy = flash_attention_entropy(query, keys, values)
        out.copy_(output.transpose(1, 2))
        return entropy

    def attend_text(self, query: Tensor, text: KeptText, out: Tensor) -> None:
        """Attention of queries [R, K, H, D] to the text, into `out` of the same shape."""
        keys, values = text.keys.transpose(1, 2), text.values.transpose(1, 2)
        output = F.scaled_dot_product_attention(query.transpose(1, 2), keys, values, attn_mask=text.bias)
        out.copy_(output.transpose(1, 2))

    def attend_folded(self, x: Tensor, text: FoldedText, scores: Tensor, out: Tensor, adds: bool = False) -> None:
        """Attention to the text with the projections around it.

        Args:
            x: [R, K, C].
            text: of the same rows.
            scores: [R, K, H * T] to work in.
            out: [R, K, C].
            adds: to what is in `out`.
        """
        self.score_text(x, text, scores)
        if adds:
            out.baddbmm_(scores, text.values)
        else:
            torch.bmm(scores, text.values, out=out)

    def score_text(self, x: Tensor, text: FoldedText, scores: Tensor) -> None:
        """The weights of folded text for `x` [R, K, C] into `scores` [R, K, H * T]."""
        torch.bmm(x, text.keys.transpose(1, 2), out=scores)
        head_dim = x.shape[2] // text.bias.shape[1]
        self.weigh(scores, text.bias, head_dim**-0.5)

    def weigh(self, scores: Tensor, bias: Tensor, scale: float) -> None:
        """Scores [R, K, H * T] to weights, by head, in place: softmax of ``scores * scale + bias`` [R, H, T]."""
        value = scores.unflatten(2, bias.shape[1:]).float() * scale + bias.unsqueeze(1)
        scores.copy_(value.softmax(-1).flatten(2))

    def fold(self, text: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] | None, out: Tensor) -> None:
        """Folds the keys or the values of all layers into the products around the attention to them.

        Args:
            text: keys or values [R, T, layers, H, D].
            weights: by layer [H, D, C], of the same strides.
            biases: by layer [C], of which every head brings its share, or None.
            out: the products [R, layers, H, T, C].
        """
        for layer, weight in enumerate(weights):
            folded = torch.einsum("rthd,hdc->rhtc", text[:, :, layer].float(), weight.float())
            out[:, layer] = folded if biases is None else folded + biases[layer] / text.shape[3]

    def order(self, values: Tensor) -> Tensor:
        """The stable order [B, L] that sorts values [B, L], int64."""
        return ascending(values)

    def deviation(self, x: Tensor) -> Tensor:
        """Minus the squared distance of tokens [B, L, C] from their mean, fp32 [B, L]."""
        x = x.float()
        return -(x - x.mean(1, keepdim=True)).square().sum(2)

    def restore(self, x: Tensor, update: Tensor, rows: Rows, tables: ResizeTables) -> None:
        """Adds to the tokens that were not computed what a layer added at another scale.

        Args:
            x: the stream [R, L, C], changed in place.
            update: [R, U, C].
            rows: the computed tokens.
            tables: from the update's grid to the scale's.
        """
        grid = update.float().transpose(1, 2).unflatten(2, (tables.rows.shape[1], -1))
        resized = resize(grid, tables.rows, tables.columns).flatten(2).transpose(1, 2)
        index = rows.rest()
        if index is None:
            x[:, rows.kept :] += resized[:, rows.kept :]
            return
        place = index.unsqueeze(2).expand(-1, -1, x.shape[2])
        x.scatter_(1, place, (x.gather(1, place) + resized.gather(1, place)).to(x.dtype))

    def guide(self, logits: Tensor, sampling: Sampling, guided: bool, added: Tensor | None) -> Tensor:
        """Logits of all rows to those that are sampled from.

        Args:
            logits: over temperature, fp32 [B, halves, L, d, 2].
            sampling: guidance.
            guided: guidance applies to the logits.
            added: a difference of conditional and unconditional logits to extrapolate as well, [B, L, d, 2].
        """
        conditional, guidance = logits[:, 0], sampling.scalars[0]
        if not guided:
            return conditional
        result = guidance * conditional + (1 - guidance) * logits[:, -1]
        return result if added is None else result + (guidance - 1) * added

    def sample(
        self, logits: Tensor, sampling: Sampling, guided: bool, height: int, factor: int, bits: Tensor
    ) -> Tensor:
        """Draws bits and lays out their codes.

        Args:
            logits: fp32 [B, halves, L, 2 d], before temperature.
            sampling: how.
            guided: guidance applies to the logits.
            height: rows of tokens.
            factor: codes a token's side.
            bits: where to write them, uint8 [B, L, d].

        Returns:
            Codes fp32 [B, d / factor^2, height * factor, width * factor].
        """
        scaled = logits.unflatten(-1, (-1, 2)) / sampling.scalars[1]
        return self.sample_guided(self.guide(scaled, sampling, guided, None), sampling, height, factor, bits)

    def sample_guided(self, guided: Tensor, sampling: Sampling, height: int, factor: int, bits: Tensor) -> Tensor:
        """The same, from guided logits [B, L, d, 2]."""
        bits.copy_(sample_bits(guided, sampling.noise, sampling.scalars[2]))
        codes = bits_to_map(bits, height, factor)
        return codes_from_bits(codes.movedim(1, -1)).movedim(-1, 1)


def _rotate(x: Tensor, rope: Tensor) -> Tensor:
    """Rotates neighbouring channel pairs of [R, H, K, D] by ``rope`` [2, ..., K, D / 2]."""
    pairs = x.unflatten(-1, (-1, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    cosine, sine = rope[0], rope[1]
    return torch.stack([cosine * even - sine * odd, sine * even + cosine * odd], dim=-1).flatten(-2)
