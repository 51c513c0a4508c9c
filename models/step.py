"""Generation as three pure functions of tensors: prepare a prompt, run one scale, decode.

They are what the eager backend calls and what the compiler exports, so that every backend computes the same
thing. Inputs and outputs are flat, in the order of `toprovar.signature`.

Pruning is an order and a prefix: the tokens of a scale are sorted, most important first, and layer l works on
the first ``kept[l]`` of them, a plain slice. What becomes of the rest is the restoration's affair; their keys and
values never enter the cache. A selector that wants another order for each layer sorts again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toprovar import signature
from toprovar.extensions import RESTORATIONS, SELECTORS
from toprovar.models.backbone import Backbone, Condition
from toprovar.models.bsq_vae import BSQVAE, codes_from_bits
from toprovar.models.observer import Observer
from toprovar.models.restorations.base import Restoration, rest
from toprovar.models.selectors.base import Selector
from toprovar.models.tokens import SortedTokens, resize
from toprovar.plugins.fae.torch_op import flash_attention_entropy
from toprovar.pruning import Pruning

__all__ = ["Blocks", "Decode", "Prompt", "ScaleStep", "sample_bits"]


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


class Blocks(NamedTuple):
    """What the blocks of one scale gave.

    Attributes:
        hidden: hidden state [R, L, C] in token order.
        presents: keys and values of all tokens so far, flat.
        scores: per observer the standardised entropy [B, L] in token order.
        carried: what the selector hands on instead of the entropy, [B, L] in token order, or None.
        tokens: the stream in its last working order.
        restoration: what happened to tokens that were not computed.
    """

    hidden: Tensor
    presents: list[Tensor]
    scores: list[Tensor]
    carried: Tensor | None
    tokens: SortedTokens
    restoration: Restoration


class ScaleStep(nn.Module):
    """One scale of the generation (`signature.step`).

    Args:
        backbone: the transformer.
        patchify: codes are pixel-shuffled by two between transformer and decoder.
        guidance_layers: layers after whose output guidance is applied; ``depth`` stands for the logits.
        pruning: how tokens are ranked and restored, and which layers are observed.
        adaptive: accept an order and kept counts; False builds the plain dense step.
        observer: called with what each layer computed, in eager mode only.
    """

    def __init__(
        self,
        backbone: Backbone,
        patchify: bool,
        guidance_layers: Sequence[int],
        pruning: Pruning = Pruning(),  # noqa: B008  frozen
        adaptive: bool = False,
        observer: Observer | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.patchify = patchify
        self.guidance_layers = tuple(guidance_layers)
        self.pruning = pruning
        self.adaptive = adaptive
        self.observer = observer
        self.signature = signature.step(backbone.config.depth, adaptive, pruning)
        self._select: type[Selector] = Selector if pruning.selector == "none" else SELECTORS.load(pruning.selector)
        self._restore: type[Restoration] = RESTORATIONS.load(pruning.restoration)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Inputs to outputs of `signature.step`, both in order."""
        return self.compute(dict(zip(self.signature.inputs, tensors, strict=True)))[0]

    def compute(self, given: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], Tensor]:
        """Outputs of `signature.step`, and the logits [B, L, d, 2] that the bits were drawn from."""
        blocks = self.run_blocks(given)
        logits = self.scaled_logits(blocks.hidden, given)
        guided = self.guide(logits, given)
        bits = sample_bits(guided, given["noise"], given["certain"])
        outputs: tuple[Tensor, ...] = (bits, *self.advance(bits, given, blocks.restoration.drawn(blocks.tokens)))
        if self.pruning.reuses_guidance:
            outputs += (self.carry_guidance(logits, given),)
        if self.adaptive:
            outputs += self.rank(blocks, given)
            if self.pruning.carries_logits:
                outputs += (_carry(guided, given),)
            outputs += blocks.restoration.outputs()
        return (*outputs, *blocks.presents), guided

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

    def run_blocks(self, given: dict[str, Tensor]) -> Blocks:
        """All blocks over one scale."""
        if self.observer:
            self.observer.on_scale(int(given["scale"]))
        condition = self.condition(given)
        presents: list[Tensor] = []
        entropies: dict[int, Tensor] = {}
        scores: list[Tensor] = []

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            key = torch.cat([given[f"past_key.{layer}"], key], dim=2)
            value = torch.cat([given[f"past_value.{layer}"], value], dim=2)
            presents.extend((key, value))
            if layer not in self.pruning.observers:
                return F.scaled_dot_product_attention(query, key, value, scale=1.0)
            output, entropy = flash_attention_entropy(query, key, value)
            relative = entropy / torch.log(torch.ones_like(entropy) * key.shape[2]).clamp_min(1e-6)
            entropies[layer] = relative
            if self.observer:
                self.observer.on_attention(layer, relative[None])
            return output

        selector = (self._select if self.adaptive else Selector)(self.backbone.config.depth, given)
        restoration = (self._restore if self.adaptive else Restoration)(given)
        rows = given["conditional_rows"]
        tokens = self._start(selector, given)
        for layer, kept in enumerate(self._kept(given, tokens)):
            if self.adaptive:
                tokens = _sort(tokens, restoration, selector.before_layer(layer, tokens.x[rows]))
            # narrow keeps the size symbolic under torch.export, where slicing would clamp it
            working = self.backbone.block(
                layer, tokens.x.narrow(1, 0, kept), condition, tokens.rope.narrow(-2, 0, kept), attend
            )
            if layer in self.guidance_layers:
                working = self._guide_rows(working, given)
            if self.observer:
                self.observer.on_hidden(layer, working[None])
            if not self.adaptive:
                tokens = replace(tokens, x=working)
                continue
            tokens = restoration.restore(layer, tokens, working, kept)
            selector.after_layer(layer, tokens.x[rows])
            if layer in entropies:
                scores.append(self._score(entropies[layer], len(scores), tokens, given))
                values = selector.after_observer(torch.stack(scores).mean(0))
                tokens = _sort(tokens, restoration, None if values is None else tokens.sorted_values(values))
        tokens = restoration.finish(tokens)
        carried = selector.carried()
        values = None if carried is None else tokens.token_values(carried)
        return Blocks(tokens.token_rows(tokens.x), presents, scores, values, tokens, restoration)

    def _start(self, selector: Selector, given: dict[str, Tensor]) -> SortedTokens:
        x = self.backbone.embed_scale(given["x"], given["scale"])
        tokens = SortedTokens.unsorted(x, given["rope"], given["image_of_row"])
        if not self.adaptive:
            return tokens
        values = selector.at_start(x[given["conditional_rows"]])
        return tokens.in_order(given["order"]) if values is None else tokens.sort_by(values)

    def _kept(self, given: dict[str, Tensor], tokens: SortedTokens) -> list[int | torch.SymInt]:
        depth, total = self.backbone.config.depth, tokens.x.shape[1]
        if not self.adaptive:
            return [total] * depth
        kept: list[int | torch.SymInt] = []
        for layer in range(depth):
            count = given["kept"][layer].item()
            torch._check(count >= 0)
            torch._check(count <= total)
            if torch.compiler.is_exporting():
                # Attention's tracing branches on empty and single sizes in older torch; the graph does not.
                torch._check(count > 1)
            kept.append(count)
        return kept

    def _guide_rows(self, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        """Guidance inside the network: both rows of an image become the guided one."""
        conditional = x[given["conditional_rows"]]
        unconditional = x[given["unconditional_rows"]]
        guidance = given["guidance"]
        guided = guidance * conditional + (1 - guidance) * unconditional
        return torch.where(guidance == 1, x, guided[given["image_of_row"]])

    def scaled_logits(self, hidden: Tensor, given: dict[str, Tensor]) -> Tensor:
        """Hidden state [R, L, C] to logits [R, L, d, 2], over temperature."""
        return self.backbone.logits(hidden, self.condition(given)) / given["temperature"]

    def guided_logits(self, hidden: Tensor, given: dict[str, Tensor]) -> Tensor:
        """Hidden state [R, L, C] to the logits that are sampled from, [B, L, d, 2]."""
        return self.guide(self.scaled_logits(hidden, given), given)

    def guide(self, logits: Tensor, given: dict[str, Tensor]) -> Tensor:
        """Logits of all rows [R, L, d, 2] to those of the images [B, L, d, 2]."""
        conditional = logits[given["conditional_rows"]]
        if self.backbone.config.depth not in self.guidance_layers:
            return conditional
        guidance = given["guidance"]
        guided = guidance * conditional + (1 - guidance) * logits[given["unconditional_rows"]]
        if self.pruning.reuses_guidance:
            guided = guided + (guidance - 1) * given["guidance_difference"]
        return guided

    def carry_guidance(self, logits: Tensor, given: dict[str, Tensor]) -> Tensor:
        """Conditional minus unconditional logits, carried over to the next scale's grid, [B, L', d, 2].

        Where there are no unconditional rows it is what was itself carried over.
        """
        difference = logits[given["conditional_rows"]] - logits[given["unconditional_rows"]]
        return _carry(difference + given["guidance_difference"], given)

    def advance(self, bits: Tensor, given: dict[str, Tensor], drawn: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Adds the codes of `bits` [B, L, d] to the sum and embeds the next scale's input.

        Args:
            bits: of every token.
            given: the step's inputs.
            drawn: 1 for a token whose codes count and 0 for another, [B, L]; None if all do.
        """
        factor = 2 if self.patchify else 1
        height = given["up_rows"].shape[1] // factor
        codes = _to_map(bits, height, factor)
        codes = codes_from_bits(codes.movedim(1, -1)).movedim(-1, 1)
        if drawn is not None:
            codes = codes * _to_map(drawn.unsqueeze(2).expand(-1, -1, factor**2), height, factor)
        summed = given["summed"] + resize(codes, given["up_rows"], given["up_columns"])
        shown = resize(summed, given["next_rows"], given["next_columns"])
        if self.patchify:
            shown = F.pixel_unshuffle(shown, 2)
        next_x = self.backbone.embed_codes(shown.flatten(2).transpose(1, 2))
        return next_x[given["image_of_row"]], summed

    def rank(self, blocks: Blocks, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Entropy of every token, averaged over observers, and what the next scale is sorted by, on its grid.

        Returns:
            [B, L] and [B, L'], both in token order; low means focused, and comes first.
        """
        values = torch.stack(blocks.scores).mean(0) if blocks.scores else given["prior"]
        handed_on = values if blocks.carried is None else blocks.carried
        grid = handed_on.unflatten(1, (given["carry_rows"].shape[1], -1)).unsqueeze(1)
        carried = resize(grid, given["carry_rows"], given["carry_columns"])
        return values, carried.flatten(1)

    def _score(self, entropy: Tensor, index: int, tokens: SortedTokens, given: dict[str, Tensor]) -> Tensor:
        """Relative entropy [R, H, K] of an observer to a value of every token [B, L], in token order.

        Heads differ in logit temperature, so each is standardised before the mean. Tokens that the observer did
        not see keep what was carried over to them (``prior``).
        """
        mean = given["entropy_mean"][index][:, None]
        deviation = given["entropy_deviation"][index][:, None]
        score = ((entropy[given["conditional_rows"]] - mean) / deviation).mean(1)
        unseen = rest(tokens.sorted_values(given["prior"]), score.shape[1])
        return tokens.token_values(torch.cat([score, unseen], dim=1))


def _carry(logits: Tensor, given: dict[str, Tensor]) -> Tensor:
    """Values [B, L, d, 2] on the next scale's grid, [B, L', d, 2]."""
    grid = logits.flatten(2).transpose(1, 2).unflatten(2, (given["carry_rows"].shape[1], -1))
    carried = resize(grid, given["carry_rows"], given["carry_columns"]).flatten(2).transpose(1, 2)
    return carried.unflatten(2, (-1, 2))


def _sort(tokens: SortedTokens, restoration: Restoration, values: Tensor | None) -> SortedTokens:
    if values is None:
        return tokens
    after = tokens.sort_by(values)
    restoration.reorder(tokens, after)
    return after


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


def _to_map(bits: Tensor, height: int, factor: int) -> Tensor:
    """[B, L, d] to [B, d / factor^2, height * factor, ...]."""
    grid = bits.transpose(1, 2).unflatten(2, (height, -1))
    return F.pixel_shuffle(grid, factor) if factor > 1 else grid
