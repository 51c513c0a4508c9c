"""Generation as three pure functions of tensors: prepare a prompt, run one scale, decode.

They are what the eager backend calls and what the compiler exports, so that every backend computes the same
thing. Inputs and outputs are flat, in the order of `toprovar.signature`.

Pruning is an order and a prefix: the tokens of a scale are sorted once, most important first, and layer l
works on the first ``kept[l]`` of them, a plain slice. The rest of the residual stream passes through
(restoration ``identity``), and their keys and values never enter the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toprovar import signature
from toprovar.models.backbone import Backbone, Condition
from toprovar.models.bsq_vae import BSQVAE, codes_from_bits
from toprovar.models.observer import Observer
from toprovar.plugins.fae.torch_op import flash_attention_entropy

__all__ = ["Decode", "Prompt", "ScaleStep"]


class Prompt(nn.Module):
    """Text features to the state of a generation (`signature.prompt`)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, features: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """Features [R, T, channels] and mask [R, T] to the outputs of `signature.prompt`, in order."""
        condition = self.backbone.encode_condition(features, mask)
        pairs = zip(condition.text_keys, condition.text_values, strict=True)
        return (
            condition.start,
            condition.modulation,
            condition.head_modulation,
            condition.text_bias,
            *(part for pair in pairs for part in pair),
        )


class Decode(nn.Module):
    """Summed codes to an image (`signature.DECODE`)."""

    def __init__(self, vae: BSQVAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, summed: Tensor) -> Tensor:
        """Summed codes [B, z, h, w] to images [B, 3, height, width] in [-1, 1]."""
        return self.vae.decode(summed)


class _Sorted(NamedTuple):
    """Tokens of a scale in their working order."""

    x: Tensor
    rope: Tensor
    kept: list[int | torch.SymInt]


class ScaleStep(nn.Module):
    """One scale of the generation (`signature.step`).

    Args:
        backbone: the transformer.
        patchify: codes are pixel-shuffled by two between transformer and decoder.
        guidance_layers: layers after whose output guidance is applied; ``depth`` stands for the logits.
        observers: layers whose attention entropy is measured.
        adaptive: accept an order and kept counts; False builds the plain dense step.
        observer: called with what each layer computed, in eager mode only.
    """

    def __init__(
        self,
        backbone: Backbone,
        patchify: bool,
        guidance_layers: Sequence[int],
        observers: Sequence[int] = (),
        adaptive: bool = False,
        observer: Observer | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.patchify = patchify
        self.guidance_layers = tuple(guidance_layers)
        self.observers = tuple(observers)
        self.adaptive = adaptive
        self.observer = observer
        self.signature = signature.step(backbone.config.depth, adaptive)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Inputs to outputs of `signature.step`, both in order."""
        given = dict(zip(self.signature.inputs, tensors, strict=True))
        hidden, presents, entropies = self.run_blocks(given)
        logits = self.guided_logits(hidden, given)
        bits = sample_bits(logits, given["noise"], given["certain"])
        next_x, next_summed = self.advance(bits, given)
        outputs: tuple[Tensor, ...] = (bits, next_x, next_summed)
        if self.adaptive:
            outputs += self.rank(entropies, given)
        return (*outputs, *presents)

    def condition(self, given: dict[str, Tensor]) -> Condition:
        """The prompt's share of a step's inputs."""
        depth = self.backbone.config.depth
        return Condition(
            start=given["x"],
            modulation=given["modulation"],
            head_modulation=given["head_modulation"],
            text_keys=[given[f"text_key.{layer}"] for layer in range(depth)],
            text_values=[given[f"text_value.{layer}"] for layer in range(depth)],
            text_bias=given["text_bias"],
        )

    def run_blocks(self, given: dict[str, Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """All blocks over one scale.

        Returns:
            Hidden state [R, L, C] in token order; keys and values of all tokens so far, flat; and per
            observer the entropy in nats over the logarithm of the number of keys, [R, H, K].
        """
        if self.observer:
            self.observer.on_scale(int(given["scale"]))
        condition = self.condition(given)
        presents: list[Tensor] = []
        entropies: list[Tensor] = []

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            key = torch.cat([given[f"past_key.{layer}"], key], dim=2)
            value = torch.cat([given[f"past_value.{layer}"], value], dim=2)
            presents.extend((key, value))
            if layer not in self.observers:
                return F.scaled_dot_product_attention(query, key, value, scale=1.0)
            output, entropy = flash_attention_entropy(query, key, value)
            relative = entropy / torch.log(torch.ones_like(entropy) * key.shape[2]).clamp_min(1e-6)
            entropies.append(relative)
            if self.observer:
                self.observer.on_attention(layer, relative)
            return output

        tokens = self._sort(given)
        x = tokens.x
        for layer, kept in enumerate(tokens.kept):
            # narrow keeps the size symbolic under torch.export, where slicing would clamp it
            working = self.backbone.block(
                layer, x.narrow(1, 0, kept), condition, tokens.rope.narrow(-2, 0, kept), attend
            )
            if layer in self.guidance_layers:
                working = self._guide_rows(working, given)
            if self.observer:
                self.observer.on_hidden(layer, working)
            x = torch.cat([working, x.narrow(1, kept, x.shape[1] - kept)], dim=1) if self.adaptive else working
        return self._unsort(x, given), presents, entropies

    def _sort(self, given: dict[str, Tensor]) -> _Sorted:
        x = self.backbone.embed_scale(given["x"], given["scale"])
        depth = self.backbone.config.depth
        if not self.adaptive:
            return _Sorted(x, given["rope"], [x.shape[1]] * depth)
        order = given["order"][given["image_of_row"]]
        kept = []
        for layer in range(depth):
            count = given["kept"][layer].item()
            torch._check(count >= 0)
            torch._check(count <= x.shape[1])
            if torch.compiler.is_exporting():
                # Attention's tracing branches on empty and single sizes in older torch; the graph does not.
                torch._check(count > 1)
            kept.append(count)
        return _Sorted(_take(x, order), given["rope"][:, order].unsqueeze(2), kept)

    def _unsort(self, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        if not self.adaptive:
            return x
        return _take(x, given["order"].argsort(dim=1)[given["image_of_row"]])

    def _guide_rows(self, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        """Guidance inside the network: both rows of an image become the guided one."""
        conditional = x[given["conditional_rows"]]
        unconditional = x[given["unconditional_rows"]]
        guidance = given["guidance"]
        guided = guidance * conditional + (1 - guidance) * unconditional
        return torch.where(guidance == 1, x, guided[given["image_of_row"]])

    def guided_logits(self, hidden: Tensor, given: dict[str, Tensor]) -> Tensor:
        """Hidden state [R, L, C] to logits [B, L, d, 2], over temperature."""
        logits = self.backbone.logits(hidden, self.condition(given)) / given["temperature"]
        conditional = logits[given["conditional_rows"]]
        if self.backbone.config.depth not in self.guidance_layers:
            return conditional
        guidance = given["guidance"]
        return guidance * conditional + (1 - guidance) * logits[given["unconditional_rows"]]

    def advance(self, bits: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Adds the codes of `bits` [B, L, d] to the sum and embeds the next scale's input."""
        factor = 2 if self.patchify else 1
        height = given["up_rows"].shape[1] // factor
        codes = _to_map(bits, height, factor)
        codes = codes_from_bits(codes.movedim(1, -1)).movedim(-1, 1)
        summed = given["summed"] + _resize(codes, given["up_rows"], given["up_columns"])
        shown = _resize(summed, given["next_rows"], given["next_columns"])
        if self.patchify:
            shown = F.pixel_unshuffle(shown, 2)
        next_x = self.backbone.embed_codes(shown.flatten(2).transpose(1, 2))
        return next_x[given["image_of_row"]], summed

    def rank(self, entropies: Sequence[Tensor], given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Entropy of every token, standardised and averaged, and carried over to the next scale's grid.

        Tokens that no observer saw keep what was carried over to them (``prior``).

        Returns:
            [B, L] and [B, L'], both in token order; low means focused.
        """
        order = given["order"]
        values = _take(given["prior"].unsqueeze(2), order).squeeze(2)
        if entropies:
            total = torch.zeros_like(values)
            for index, entropy in enumerate(entropies):
                score = self._standardise(entropy[given["conditional_rows"]], index, given)
                unseen = values.narrow(1, score.shape[1], values.shape[1] - score.shape[1])
                total = total + torch.cat([score, unseen], dim=1)
            values = total / len(entropies)
        values = _take(values.unsqueeze(2), order.argsort(dim=1)).squeeze(2)
        grid = values.unflatten(1, (given["carry_rows"].shape[1], -1)).unsqueeze(1)
        carried = _resize(grid, given["carry_rows"], given["carry_columns"])
        return values, carried.flatten(1)

    def _standardise(self, entropy: Tensor, index: int, given: dict[str, Tensor]) -> Tensor:
        """[B, H, K] to [B, K]: heads differ in logit temperature, so each is standardised before the mean."""
        mean = given["entropy_mean"][index][:, None]
        deviation = given["entropy_deviation"][index][:, None]
        return ((entropy - mean) / deviation).mean(1)


def sample_bits(logits: Tensor, noise: Tensor, certain: Tensor) -> Tensor:
    """Draws bits from [B, L, d, 2] logits with given logistic noise [B, L, d].

    The difference of two logits plus logistic noise is positive with the softmax probability of bit 1. A
    nucleus of two classes is a threshold: where the difference is at least ``certain`` = log(p / (1 - p)), the
    likelier bit is taken (infinite for p = 1, zero for greedy sampling).

    Returns:
        uint8 [B, L, d].
    """
    difference = logits[..., 1] - logits[..., 0]
    drawn = torch.where(difference.abs() >= certain, difference, difference + noise)
    return (drawn > 0).to(torch.uint8)


def _take(x: Tensor, order: Tensor) -> Tensor:
    """[R, L, C] rows by [R, L] positions."""
    return x.gather(1, order.unsqueeze(2).expand(-1, -1, x.shape[2]))


def _resize(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return rows @ x @ columns.T


def _to_map(bits: Tensor, height: int, factor: int) -> Tensor:
    """[B, L, d] to [B, d / factor^2, height * factor, ...]."""
    grid = bits.transpose(1, 2).unflatten(2, (height, -1))
    return F.pixel_shuffle(grid, factor) if factor > 1 else grid
