"""A session: prompts in, images out, whatever the backend."""

from __future__ import annotations

import functools
import itertools
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from toprovar.deployment import PLAN, Deployment
from toprovar.errors import ArtefactError, UsageError
from toprovar.extensions import BACKENDS, STATISTICS
from toprovar.manifest import SamplingDefaults
from toprovar.plan import Ranking, SparsityPlan
from toprovar.runtime.backends.base import Backend, Controls, EngineOptions, State, StepResult
from toprovar.runtime.clock import Clock
from toprovar.runtime.noise import logistic_noise
from toprovar.runtime.sampling import Sampling
from toprovar.runtime.statistics.base import SeenScale
from toprovar.runtime.statistics.high_frequency import edges, high_frequency
from toprovar.runtime.text import Tokenizer

__all__ = ["GeneratedImage", "Generation", "ObservedScale", "Session"]

Tokenize = Callable[[str], list[int]]
StepCallback = Callable[["Session", int, float, dict[str, Any]], Any]


@dataclass(frozen=True)
class GeneratedImage:
    """One image and how it came about.

    Its arrays are complete and its own: no later generation writes to them.

    Attributes:
        picture: RGB, uint8 [height, width, 3].
        prompt: as given.
        seed: of its noise.
        depth: first scale that ran sparse; the number of scales if none did.
        statistic: what the depth was decided by (`toprovar.runtime.statistics`); None where it was not measured.
        bits: per scale uint8 [tokens, bits]; those of a scale that is left out are not in the image.
        pixels: before rounding, float32 [3, height, width] in [-1, 1].
    """

    picture: np.ndarray = field(repr=False)
    prompt: str
    seed: int
    depth: int
    statistic: float | None
    bits: tuple[np.ndarray, ...] = field(repr=False)
    pixels: np.ndarray = field(repr=False)

    @functools.cached_property
    def image(self) -> Image.Image:
        """The picture as Pillow keeps it, a copy that is made when it is first asked for."""
        return Image.frombytes("RGB", self.picture.shape[1::-1], np.ascontiguousarray(self.picture))


@dataclass(frozen=True)
class Generation:
    """Images of one call.

    Attributes:
        images: in the order of prompts, then of repetitions.
        seconds: wall-clock of everything until the arrays are on the host: text, scales, decoding.
        scale_seconds: by scale, all images together; on the device's clock where an engine works on after a call.
        analysis_seconds: the share of ranking and depth rule on the host, with the wait for what they read, within
            `scale_seconds`.
    """

    images: tuple[GeneratedImage, ...]
    seconds: float
    scale_seconds: tuple[float, ...]
    analysis_seconds: float


@dataclass(frozen=True)
class ObservedScale:
    """What a deployment may see of one scale.

    Attributes:
        entropy: standardised entropy of every token, float32 [tokens].
        high_frequency: mean change to the edges of the picture (`toprovar.runtime.statistics.high_frequency`).
    """

    entropy: np.ndarray
    high_frequency: float


@dataclass
class _Group:
    """Images of a batch that run together, because they share a depth."""

    members: list[int]
    state: State
    depth: int | None


class Session:
    """Generates images with one backend and one plan.

    Args:
        backend: an engine with a model loaded.
        plan: what to compute; its schedule must be the backend's.
        sampling: defaults of guidance, temperature, top-k and top-p.
        tokenize: token ids of a prompt; None where prompts are given as features.
    """

    def __init__(
        self, backend: Backend, plan: SparsityPlan, sampling: SamplingDefaults, tokenize: Tokenize | None
    ) -> None:
        self.backend = backend
        self.plan = plan
        self.sampling = sampling
        self.tokenize = tokenize

    @classmethod
    def open(
        cls,
        folder: str | Path,
        backend: str | None = None,
        source: str | None = None,
        options: EngineOptions = EngineOptions(),  # noqa: B008  frozen
    ) -> Session:
        """Opens a deployment folder.

        Args:
            folder: what `toprovar-compile` wrote.
            backend: engine to run on; the one it was compiled for if left out.
            source: checkpoint for backends that load the model itself.
            options: how the engine is to work.

        Raises:
            ToProVARError: the folder is no deployment, it was changed, or its engine cannot run here.
        """
        deployment = Deployment.open(folder)
        tokenizer = Tokenizer.open(deployment.folder / "text", deployment.manifest.text)
        kind = BACKENDS.load(backend or deployment.manifest.backend)
        kind.check_options(options)
        engine = kind.open(deployment, source, options)
        _check_ranking(deployment.plan.ranking, engine.constants)
        return cls(engine, deployment.plan, deployment.manifest.sampling, tokenizer.encode if tokenizer else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.backend.close()

    def __call__(
        self,
        prompt: str | np.ndarray | Sequence[str | np.ndarray],
        negative_prompt: str | np.ndarray | None = None,
        height: int | None = None,
        width: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        num_images_per_prompt: int = 1,
        generator: int | Sequence[int] = 0,
        callback_on_step_end: StepCallback | None = None,
        *,
        temperature: float | Sequence[float] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        dense: bool = False,
        batch_size: int = 1,
    ) -> Generation:
        """Generates images.

        Args:
            prompt: one or several, as text or as features float32 [T, channels].
            negative_prompt: what the unconditional rows see instead of the learnt features.
            height: pixels; must be the deployment's, since its tables are made for one schedule.
            width: pixels; likewise.
            guidance_scale: one number or one a scale; 1 switches guidance off.
            num_images_per_prompt: images with consecutive seeds.
            generator: seed of the first image, or one seed for every prompt.
            callback_on_step_end: called as (session, scale, seconds since the start, {}) after each scale.
            temperature: of the logits, one number or one a scale.
            top_k: 1 takes the likelier value of every bit; otherwise without effect on single bits.
            top_p: probability mass to sample from.
            dense: compute every token, whatever the plan says.
            batch_size: images that run together.

        Raises:
            UsageError: an argument that cannot be carried out.
        """
        self._check_size(height, width)
        prompts = [prompt] if isinstance(prompt, str | np.ndarray) else list(prompt)
        if not prompts or num_images_per_prompt < 1 or batch_size < 1:
            raise UsageError(
                "nothing to generate; expected a prompt, and counts of at least 1", "give a prompt in quotes"
            )
        sampling = Sampling.of(self.sampling, len(self.plan.scales), guidance_scale, temperature, top_k, top_p)
        seeds = [operator.index(one) for one in ([generator] * len(prompts) if np.ndim(generator) == 0 else generator)]
        if len(seeds) != len(prompts):
            raise UsageError(f"{len(seeds)} seeds for {len(prompts)} prompts; expected one seed or one a prompt")
        started = time.perf_counter()
        texts = [self._features(one) for one in prompts]
        negative = None if negative_prompt is None else self._features(negative_prompt)
        work = [(p, seeds[p] + i) for p in range(len(prompts)) for i in range(num_images_per_prompt)]
        clock = Clock(len(self.plan.scales), started, self.backend.moment)
        images: list[GeneratedImage] = []
        for start in range(0, len(work), batch_size):
            batch = work[start : start + batch_size]
            made = self._run_batch(
                [texts[p] for p, _ in batch],
                negative,
                [seed for _, seed in batch],
                sampling,
                dense,
                clock,
                callback_on_step_end,
            )
            for (p, seed), (pixels, picture, bits, depth, statistic) in zip(batch, made, strict=True):
                name = prompts[p] if isinstance(prompts[p], str) else "(features)"
                images.append(GeneratedImage(picture, name, seed, depth, statistic, bits, pixels))
        return Generation(tuple(images), time.perf_counter() - started, clock.scale_seconds, clock.analysis_seconds)

    def observe(self, prompt: str | np.ndarray, seed: int = 0) -> list[ObservedScale]:
        """Generates one image densely and watches every scale as a deployment would."""
        sums, entropies = [], []
        for before, result in self._dense_steps(prompt, seed, observed=True):
            sums.append(before)
            tokens = self.plan.scales[before.scale].tokens
            entropies.append(np.zeros(tokens, np.float32) if result.entropy is None else result.entropy[0])
        sums.append(_sum_alone(result.state))
        # Pictures last: they wait for the engine, which may work on until then.
        seen = [edges(self.backend, one) for one in sums]
        changes = [float(high_frequency(before, after)[0]) for before, after in itertools.pairwise(seen)]
        return [ObservedScale(np.asarray(entropy), change) for entropy, change in zip(entropies, changes, strict=True)]

    def run_scales(self, prompt: str | np.ndarray, seed: int = 0) -> None:
        """Computes all scales of one image densely and makes no picture: for a backend that is observed."""
        for _ in self._dense_steps(prompt, seed, observed=False):
            pass

    def _dense_steps(self, prompt: str | np.ndarray, seed: int, observed: bool) -> Iterator[tuple[State, StepResult]]:
        """The sum of codes before each scale, and what it gave: by the adaptive graph where entropy is observed."""
        sampling = Sampling.of(self.sampling, len(self.plan.scales))
        state = self.begin(prompt)
        for scale, plan in enumerate(self.plan.scales):
            noise = logistic_noise(seed, scale, plan.tokens, self.backend.model.code_bits)[None]
            kept = (plan.tokens,) * self.plan.layers if observed else None
            controls = Controls(noise, sampling.guidance[scale], sampling.temperature[scale], sampling.certain, kept)
            result = self.backend.step(state, controls)
            yield _sum_alone(state), result
            state = result.state

    def begin(self, prompt: str | np.ndarray) -> State:
        """The state before the first scale, with the session's guidance."""
        text = self._features(prompt)
        guided = any(value != 1 for value in self.sampling.guidance)
        unconditional = [self.backend.constants["unconditional"][: len(text)]] if guided else None
        return self.backend.begin([text], unconditional)

    def _features(self, text: str | np.ndarray) -> np.ndarray:
        if isinstance(text, np.ndarray):
            longest, channels = self.backend.constants["unconditional"].shape
            if text.ndim != 2 or text.shape[1] != channels or not 1 <= len(text) <= longest:
                raise UsageError(
                    f"features of shape {text.shape}; expected [tokens, {channels}] with 1 to {longest} tokens",
                    "give the output of the text encoder that the model was trained with",
                )
            return text
        if self.tokenize is None:
            raise UsageError("this model has no text encoder; expected features", "compile it with --text-encoder")
        return self.backend.encode_text(self.tokenize(text))

    def _check_size(self, height: int | None, width: int | None) -> None:
        model = self.backend.model
        made = model.image_height, model.image_width
        asked = made[0] if height is None else height, made[1] if width is None else width
        if asked != made:
            raise UsageError(
                f"cannot make {asked[0]} x {asked[1]} pixels; this deployment makes {made[0]} x {made[1]}",
                "compile the model with another --aspect-ratio or --resolution",
            )

    def _run_batch(
        self,
        texts: list[np.ndarray],
        negative: np.ndarray | None,
        seeds: list[int],
        sampling: Sampling,
        dense: bool,
        clock: Clock,
        callback: StepCallback | None,
    ) -> list[tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...], int, float | None]]:
        """Pixels, picture, bits, depth and statistic of every image of a batch."""
        guided = any(value != 1 for value in sampling.guidance)
        unconditional = None
        if guided:
            table = self.backend.constants["unconditional"]
            unconditional = [table[: len(text)] if negative is None else negative for text in texts]
        scales = len(self.plan.scales)
        depth = scales if dense or self.plan.is_dense else None if self.plan.depth_rule else 0
        groups = [_Group(list(range(len(texts))), self.backend.begin(texts, unconditional), depth)]
        bits: list[list[np.ndarray]] = [[] for _ in texts]
        statistics: list[float | None] = [None] * len(texts)
        width = self.backend.model.code_bits
        for scale in range(scales):
            tokens = self.plan.scales[scale].tokens
            parted: list[_Group] = []
            with clock.scale(scale):
                for group in groups:
                    noise = np.stack([logistic_noise(seeds[i], scale, tokens, width) for i in group.members])
                    controls = Controls(
                        noise,
                        sampling.guidance[scale],
                        sampling.temperature[scale],
                        sampling.certain,
                        self._kept(scale, group.depth),
                        "full" if group.depth is None else self.plan.unconditional(scale, group.depth),
                        ranks=group.depth is None or self._is_read(scale, group.depth),
                    )
                    result = self.backend.step(group.state, controls)
                    seen = SeenScale(self.backend, group.state, result.state, result.entropy)
                    group.state = result.state
                    for row, image in enumerate(group.members):
                        bits[image].append(result.bits[row])
                    with clock.analysis():
                        parted += self._part(scale, group, seen, statistics)
            groups = parted
            if callback:
                callback(self, scale, clock.elapsed(), {})
        made: dict[int, tuple[np.ndarray, np.ndarray, int]] = {}
        for group in groups:
            decoded = self.backend.decode_pictures(group.state)
            for image, pixels, picture in zip(group.members, *decoded, strict=True):
                made[image] = pixels, picture, scales if group.depth is None else group.depth
        # An engine may hand over bits that are still on their way; here they are waited for.
        arrays = [tuple(np.asarray(one) for one in own) for own in bits]
        clock.settle()
        return [(*made[i][:2], arrays[i], made[i][2], statistics[i]) for i in range(len(texts))]

    def _kept(self, scale: int, depth: int | None) -> tuple[int, ...] | None:
        """Kept counts for the adaptive graph; None where the dense graph does, since nothing needs observing."""
        plan, rule = self.plan, self.plan.depth_rule
        dense = (plan.scales[scale].tokens,) * plan.layers
        if depth is None:
            if rule is None or scale != rule.decided_after:
                return None
            needed = rule.needs_entropy or any(self._is_read(scale, own) for own in rule.depths)
            return dense if needed else None
        if self._is_pruned(scale, depth):
            return plan.kept(scale, depth)
        return dense if self._is_read(scale, depth) else None

    def _is_read(self, scale: int, depth: int) -> bool:
        """Whether the next scale is pruned by what the adaptive graph hands on."""
        return self.plan.pruning.needs_previous_scale and self._is_pruned(scale + 1, depth)

    def _is_pruned(self, scale: int, depth: int) -> bool:
        plan = self.plan
        return depth <= scale < len(plan.scales) and not plan.scales[scale].is_dense

    def _part(self, scale: int, group: _Group, seen: SeenScale, statistics: list[float | None]) -> list[_Group]:
        """Once depths are decided, images of different depth part company."""
        rule = self.plan.depth_rule
        if rule is None or group.depth is not None or scale != rule.decided_after:
            return [group]
        measured = STATISTICS.load(rule.statistic)(rule).measure(seen).tolist()
        for image, value in zip(group.members, measured, strict=True):
            statistics[image] = value
        depths = [rule.depth(value) for value in measured]
        parted = []
        for depth in sorted(set(depths)):
            rows = [row for row, own in enumerate(depths) if own == depth]
            whole = len(rows) == len(group.members)
            state = group.state if whole else self.backend.select(group.state, rows)
            parted.append(_Group([group.members[row] for row in rows], state, depth))
        return parted


def _sum_alone(state: State) -> State:
    """A state with nothing but its sum of codes: its keys may be large, or overwritten soon."""
    return replace(state, tensors={"summed": state.tensors["summed"]})


def _check_ranking(ranking: Ranking, constants: Mapping[str, np.ndarray]) -> None:
    """Moments are read from the tables: editing them in the plan would go unnoticed."""
    for name, table in (("mean", ranking.mean), ("deviation", ranking.deviation)):
        stored = constants[f"entropy_{name}"]
        if not np.array_equal(np.asarray(table, np.float32).ravel(), stored.ravel()):
            raise ArtefactError(
                "differs from the deployment's tables",
                "compile the model again: observers and their moments cannot be edited",
                field=f"ranking.{name}",
                file=PLAN,
            )
