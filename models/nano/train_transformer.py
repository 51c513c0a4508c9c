"""nano's transformer and text encoder in training, on the codes of rendered scenes.

Teacher forcing over all scales at once with Infinity's bitwise self-correction: bits of the inputs are
flipped, the labels are recomputed residuals, so that the model learns to correct itself. README.md says why
the rest is as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from toprovar.models.backbone import Condition
from toprovar.models.bsq_vae import BSQVAE, multiscale_quantize
from toprovar.models.checkpoint import read_state_dict
from toprovar.models.geometry import scale_constants
from toprovar.models.infinity import Infinity, InfinityConfig
from toprovar.models.nano.data import PendingScenes, ScenePool
from toprovar.models.nano.muon import BatchedMuon
from toprovar.models.nano.sampling import (
    EXAMPLES,
    Sampler,
    Setting,
    compare_settings,
    save_grid,
    score_table,
    tuning_prompts,
)
from toprovar.models.nano.text_encoder import WordEncoder
from toprovar.models.nano.train_tokenizer import GRIDS, read_tokenizer
from toprovar.models.nano.training import Loop, Moment, Plan, Processes, report, save_half
from toprovar.models.nano.vocabulary import MAX_WORDS, WORDS
from toprovar.models.schedules import Schedule

__all__ = ["CONFIG", "Trainee", "TransformerSettings", "make_optimizers", "train_transformer"]

CONFIG = InfinityConfig(
    depth=8,
    chunks=1,
    width=256,
    heads=4,
    hidden=1024,
    code_bits=32,
    text_channels=128,
    text_max_tokens=MAX_WORDS,
    pool_heads=1,
    levels=15,
)
_SEED = 20261125
_DROPPED_TEXT = 0.1
_STRONGEST_FLIP = 0.3
_CLEAN = 0.2
"""Share of the images without flips: at a low temperature a generation is nearly as clean."""
_COARSE_UNTIL = 0.8
"""Share of the schedule in which two of three steps train the coarse scales alone, on more images."""
_COARSE_SCALES = 7
_COARSE_IMAGES = 3
"""Images of such a step, in batches."""
_MERGED = 5
"""Scales that share one masked attention call; each of the others has a call of its own, without a mask."""
_IMPORTANCE = (5, 4.0)
"""First scale in which objects count more than the background, and by how much. Before, where the objects
will be is still open, and to count them more would teach the model to draw too many."""
_GUIDANCE = (1.5, 3.0, 4.5)
_TEMPERATURES = (0.3, 0.5, 1.0)


def _spans(grids: Schedule, merged: int) -> tuple[tuple[int, int], ...]:
    """First token and end of the merged scales together, then of each other scale."""
    ends = list(itertools.accumulate(height * width for height, width in grids))
    return ((0, ends[merged - 1]), *itertools.pairwise(ends[merged - 1 :]))


class Trainee(nn.Module):
    """Transformer and text encoder with the forward pass of training.

    Args:
        config: the transformer's architecture.
        grids: token grids, square.
        merged: scales that share one masked attention call.
    """

    rope: Tensor
    level: Tensor
    early_mask: Tensor
    token_weight: Tensor

    def __init__(self, config: InfinityConfig = CONFIG, grids: Schedule = GRIDS, merged: int = _MERGED) -> None:
        super().__init__()
        self.grids = grids
        self.merged = merged
        self.spans = _spans(grids, merged)
        self.transformer = Infinity(config)
        self.text = WordEncoder(len(WORDS), config.text_channels, MAX_WORDS)
        self._initialise(config)
        constants = scale_constants(grids, config.head_dim, grids)
        rope = torch.cat([torch.from_numpy(constants[f"rope.{s}"]) for s in range(len(grids))], dim=1)
        self.register_buffer("rope", rope, persistent=False)
        level = torch.repeat_interleave(torch.arange(len(grids)), torch.tensor([h * w for h, w in grids]))
        self.register_buffer("level", level, persistent=False)
        early = level[: self.spans[0][1]]
        self.register_buffer("early_mask", early[:, None] >= early[None, :], persistent=False)
        # A scale counts as the root of its side: with the side, as in Infinity, the last two count half of all.
        self.register_buffer("token_weight", torch.tensor([h**-1.5 for h, _ in grids])[level], persistent=False)
        self.block: Callable[..., Tensor] = _block_forward

    def _initialise(self, config: InfinityConfig) -> None:
        """Truncated normals of std sqrt(1 / (3 width)), shorter residual projections, small residual gains."""
        std = (1 / config.width / 3) ** 0.5
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        model = self.transformer
        for parameter in (model.pos_start, model.cfg_uncond, model.text_proj_for_sos.ca.mat_q, self.text.position):
            nn.init.trunc_normal_(parameter, std=std)
        nn.init.normal_(self.text.embedding.weight, std=0.5)
        for block in model.layers:
            for projection in (block.sa.proj, block.ca.proj, block.ffn.fc2):
                projection.weight.data.mul_((2 * config.depth) ** -0.5)
            nn.init.constant_(block.sa.scale_mul_1H11, 2.3)  # log 10: sharp enough to pick among 2,521 keys
            block.ada_gss.data[:, :, :2] = 0.3
            block.ada_gss.data[:, :, 2:] = 0
        model.head.weight.data.mul_(0.1)

    def forward(
        self,
        latent: Tensor,
        tokens: Tensor,
        dropped: Tensor,
        flips: Tensor,
        importance: Tensor | None = None,
        scales: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One training pass.

        Args:
            latent: [B, bits, h, w] of the tokenizer's encoder.
            tokens: word indices [B, MAX_WORDS].
            dropped: bool [B], captions replaced by the unconditional features.
            flips: probability of a flipped bit [S, B].
            importance: what every token counts [B, L], mean 1 in a scale; None for all alike.
            scales: how many scales are trained, at least the merged ones; None for all.
            generator: draws the flips.

        Returns:
            The loss, and the share of right bits per scale.
        """
        scales = scales or len(self.grids)
        spans = self.spans[: scales - self.merged + 1]
        length = spans[-1][1]
        with torch.autocast(latent.device.type, enabled=False):
            codes = multiscale_quantize(latent.float(), self.grids[:scales], flips, generator)
        labels = torch.cat([bits.flatten(1, 2) for bits in codes.bits], dim=1).float()
        inputs = torch.cat([shown.flatten(2).transpose(1, 2) for shown in codes.inputs], dim=1)
        mask = (tokens > 0).float()
        features = torch.where(dropped[:, None, None], self.transformer.cfg_uncond, self.text(tokens, mask))
        condition = self.transformer.encode_condition(features, mask)
        x = torch.cat([condition.start, self.transformer.word_embed(inputs)], dim=1)
        x = x + self.transformer.lvl_embed(self.level[:length])
        tables = self.rope[:, :length], self.early_mask, spans
        for layer, block in enumerate(self.transformer.layers):
            text = condition.text_keys[layer], condition.text_values[layer], condition.text_bias
            x = self.block(block, x, condition.modulation, *text, *tables)
        logits = self.transformer.logits(x, condition).float()
        difference = logits[..., 1] - logits[..., 0]
        loss = F.binary_cross_entropy_with_logits(difference, labels, reduction="none").mean(2)
        if importance is not None:
            loss = loss * importance
        weight = self.token_weight[:length]
        right = ((difference > 0).float() == labels).float().mean((0, 2))
        sizes = [height * width for height, width in self.grids[:scales]]
        per_scale = torch.stack([part.mean() for part in right.split(sizes)])
        return (loss.mean(0) * weight).sum() / weight.sum(), per_scale.detach()


def _block_forward(
    block: nn.Module,
    x: Tensor,
    modulation: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
    rope: Tensor,
    early: Tensor,
    spans: tuple[tuple[int, int], ...] = _spans(GRIDS, _MERGED),
) -> Tensor:
    """One block over all tokens, attention a span at a time, the first one under the mask `early`.

    Takes no layer index, so that one compiled graph serves every block.
    """

    def attend(_: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        query, key, value = (part.to(torch.bfloat16) for part in (query, key, value))
        _, end = spans[0]
        parts = [
            F.scaled_dot_product_attention(
                query[:, :, :end], key[:, :, :end], value[:, :, :end], attn_mask=early, scale=1.0
            )
        ]
        for start, end in spans[1:]:
            parts.append(
                F.scaled_dot_product_attention(query[:, :, start:end], key[:, :, :end], value[:, :, :end], scale=1.0)
            )
        return torch.cat(parts, dim=2)

    condition = Condition(x, modulation, x, [keys], [values], bias)
    return block(x, 0, condition, rope, attend)


@dataclass(frozen=True)
class TransformerSettings:
    """What a run is made of, besides its `Plan`.

    Attributes:
        batch: images a process and step.
        pool: scenes a process.
        compiled: compile the block.
    """

    batch: int = 128
    pool: int = 65536
    compiled: bool = True


def train_transformer(
    processes: Processes,
    out: Path,
    tokenizer: Path,
    plan: Plan,
    options: TransformerSettings,
    workers: Pool,
    resume: bool = False,
) -> bool:
    """Trains, shows and scores samples, and writes transformer and text encoder in half precision.

    Args:
        processes: those that train together.
        out: folder of the weights, the samples and the state.
        tokenizer: a vae.safetensors.
        plan: how long and how fast.
        options: the rest.
        workers: draw the scenes and score the samples.
        resume: go on from the state in `out`, with scenes not seen before.

    Returns:
        Whether the schedule is over.
    """
    device = processes.device
    torch.manual_seed(_SEED)
    trainee = Trainee().to(device)
    loop = Loop(trainee, make_optimizers(trainee, plan.rate), processes, plan, out / "state.pt", _SEED)
    if resume:
        loop.resume(lambda: _read_weights(trainee, out))
    pending = PendingScenes.start(options.pool, _SEED + 100 * loop.calls + processes.rank, workers)
    if options.compiled:
        _compile(trainee, options.batch)
    vae = read_tokenizer(tokenizer, device)
    pool = pending.collect(device)
    latents = _encode_pool(vae, pool)
    if processes.rank == 0:
        report(f"{len(pool)} scenes a process encoded")
    shown = loop.average.model
    sampler = Sampler(shown.transformer, shown.text, vae, GRIDS)

    def losses(moment: Moment) -> tuple[Tensor, Callable[[], str]]:
        coarse = moment.progress < _COARSE_UNTIL and moment.step % 3 > 0
        batch = options.batch * (_COARSE_IMAGES if coarse else 1)
        scales = _COARSE_SCALES if coarse else len(GRIDS)
        index = pool.draw(batch, moment.generator)
        uniform = torch.rand(len(GRIDS) + 2, batch, device=device, generator=moment.generator)
        flips = uniform[2:] * _STRONGEST_FLIP * (uniform[1] >= _CLEAN)
        importance = token_importance(pool, index, GRIDS[:scales])
        with torch.autocast(device.type, torch.bfloat16):
            loss, right = trainee(
                latents[index],
                pool.tokens[index],
                uniform[0] < _DROPPED_TEXT,
                flips,
                importance,
                scales,
                moment.generator,
            )
        return loss, lambda: "right bits " + " ".join(f"{value:.3f}" for value in right.tolist())

    def save_weights() -> None:
        save_half(shown.transformer.state_dict(), out / "model.safetensors")
        save_half(shown.text.state_dict(), out / "text_encoder.safetensors")

    def evaluate(final: bool) -> None:
        save_grid(sampler(EXAMPLES, Setting()), out / f"samples-{loop.step}.png", columns=4)
        tried = [Setting(g, t) for g in _GUIDANCE for t in _TEMPERATURES] if final else [Setting()]
        scores = compare_settings(sampler, tuning_prompts(), tried, workers)
        report("ShapeEval on calibration prompts\n" + score_table(scores))

    return loop.run(losses, save_weights, evaluate)


def make_optimizers(trainee: Trainee, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between hidden layers, at three times the rate, and AdamW for all else.

    Attention scales, which must travel far, get three times the rate as well.
    """
    ends = (trainee.transformer.word_embed, trainee.transformer.head)
    hidden = [m.weight for m in trainee.modules() if isinstance(m, nn.Linear) and m not in ends]
    taken = {id(weight) for weight in hidden}
    rest = [(name, parameter) for name, parameter in trainee.named_parameters() if id(parameter) not in taken]
    scales = [p for name, p in rest if "scale_mul" in name]
    matrices = [p for name, p in rest if p.dim() == 2]
    vectors = [p for name, p in rest if p.dim() != 2 and "scale_mul" not in name]
    groups = [
        {"params": matrices, "weight_decay": 0.03},
        {"params": vectors, "weight_decay": 0.0},
        {"params": scales, "weight_decay": 0.0, "factor": 3.0},
    ]
    fused = scales[0].is_cuda
    return [
        BatchedMuon([{"params": hidden, "factor": 3.0}], lr=rate, weight_decay=0.03),
        torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.97), fused=fused),
    ]


def token_importance(pool: ScenePool, index: Tensor, grids: Schedule) -> Tensor:
    """What every token of some scales counts in the loss, [B, L], mean 1 in each scale."""
    first, strength = _IMPORTANCE
    sizes = [(height, strength if scale >= first else 0.0) for scale, (height, _) in enumerate(grids)]
    return torch.cat([pool.token_importance(index, size, strength) for size, strength in sizes], dim=1)


def _read_weights(trainee: Trainee, folder: Path) -> None:
    whole = folder / "model.safetensors"
    trainee.transformer.load_state_dict(read_state_dict(whole if whole.exists() else folder))
    trainee.text.load_state_dict(read_state_dict(folder / "text_encoder.safetensors"))


def _compile(trainee: Trainee, batch: int) -> None:
    """Compiles the block for both kinds of step by running each once on noise; meanwhile the scenes are drawn."""
    trainee.block = torch.compile(_block_forward, dynamic=False)
    device = trainee.level.device
    for scales, images in ((len(GRIDS), batch), (_COARSE_SCALES, batch * _COARSE_IMAGES)):
        latent = torch.randn(images, CONFIG.code_bits, *GRIDS[-1], device=device)
        tokens = torch.ones(images, MAX_WORDS, dtype=torch.int64, device=device)
        flips = torch.zeros(len(GRIDS), images, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            loss, _ = trainee(latent, tokens, flips[0] > 0, flips, scales=scales)
        loss.backward()
    trainee.zero_grad()


@torch.no_grad()
def _encode_pool(vae: BSQVAE, pool: ScenePool, batch: int = 128) -> Tensor:
    """Latents of all scenes in half precision, so that the encoder runs once and not every epoch."""
    latents = []
    for index in torch.arange(len(pool), device=pool.tokens.device).split(batch):
        with torch.autocast(index.device.type, torch.bfloat16):
            latents.append(vae.encode(pool.images(index).contiguous(memory_format=torch.channels_last)).half())
    return torch.cat(latents)
