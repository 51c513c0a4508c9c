"""The interface of an engine: encode a text, begin a generation, run a scale, decode.

Public methods check what they are given; subclasses implement the ``*_impl`` methods. Everything large stays
in the backend's own arrays, inside a `State`; what crosses the border is small: noise in, bits and the
entropy map out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from toprovar import signature
from toprovar.errors import ArtefactError, BackendError, UsageError
from toprovar.manifest import ModelRecord, Precision
from toprovar.pruning import Pruning, Unconditional
from toprovar.runtime.clock import HostMoment, Moment

__all__ = ["Backend", "Controls", "EngineOptions", "State", "StepResult"]


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is to work, as its user asks for it; what is not asked for is left to deployment and engine.

    Attributes:
        precision: what it computes in.
        low_vram: spares the device's memory where that costs only time.
        reference: the model's own modules in fp32, which everything else is compared with.
    """

    precision: Precision | None = None
    low_vram: bool = False
    reference: bool = False

    def asked(self) -> tuple[str, ...]:
        """Names of what is asked for."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) != field.default)


@dataclass(frozen=True)
class State:
    """A generation between two scales.

    Attributes:
        tensors: what the next step reads, by the names of `toprovar.signature`, in the backend's own arrays.
        images: number of images B.
        rows: B, or 2 B with guidance.
        scale: index of the next scale.
        prior: ranking of the next scale's tokens, float32 [B, L]; low means important.
        updated_scale: the scale whose updates are cached, where the plan's restoration reads them.
    """

    tensors: Mapping[str, Any]
    images: int
    rows: int
    scale: int
    prior: np.ndarray
    updated_scale: int = 0


@dataclass(frozen=True)
class Controls:
    """What the host decides for one scale.

    Attributes:
        noise: logistic noise, float32 [B, L, bits].
        guidance: classifier-free guidance scale; 1 is none.
        temperature: divides the logits.
        certain: logit difference from which a bit is not drawn (`toprovar.runtime.noise.certainty`).
        kept: tokens per layer for the adaptive graph; None runs the dense graph, which observes nothing.
        unconditional: what the unconditional rows do; once they are gone they stay away.
        ranks: somebody reads the adaptive graph's entropy and ranking; without, an engine may leave them out.
    """

    noise: np.ndarray
    guidance: float
    temperature: float
    certain: float
    kept: tuple[int, ...] | None
    unconditional: Unconditional = "full"
    ranks: bool = True


@dataclass(frozen=True)
class StepResult:
    """What a scale gave.

    Attributes:
        state: for the next scale.
        bits: uint8 [B, L, bits].
        entropy: standardised entropy float32 [B, L]; None where nothing was observed or nobody asked.
    """

    state: State
    bits: np.ndarray
    entropy: np.ndarray | None


class Backend(ABC):
    """One engine with one model loaded.

    Args:
        model: facts of the model.
        grids: token grid of every scale.
        constants: tables of `toprovar.models.geometry.scale_constants`, ``unconditional`` features
            [T, channels], ``entropy_mean`` and ``entropy_deviation`` [scales, observers, heads], and where updates
            are cached ``restore_rows.FROM.TO`` and ``restore_columns.FROM.TO``.
        pruning: what the plan fixes of the graphs.

    Raises:
        ArtefactError: the tables are of another schedule.

    Attributes:
        takes: names of the `EngineOptions` that `open` carries out.
    """

    name: str
    takes: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        model: ModelRecord,
        grids: Sequence[tuple[int, int]],
        constants: Mapping[str, np.ndarray],
        pruning: Pruning = Pruning(),  # noqa: B008  frozen
    ) -> None:
        self.model = model
        self.grids = tuple(grids)
        self.constants = constants
        self.pruning = pruning
        for scale, (height, width) in enumerate(self.grids):
            tables = [constants.get(f"carry_{axis}.{scale}") for axis in ("rows", "columns")]
            found = [None if table is None else table.shape[1] for table in tables]
            if found != [height, width]:
                raise ArtefactError(
                    f"the plan has {height} x {width} tokens, the deployment's tables {found[0]} x {found[1]}",
                    "compile the model again: the schedule of a deployment cannot be edited",
                    field=f"scales[{scale}]",
                )

    @classmethod
    def check_options(cls, options: EngineOptions) -> None:
        """Refuses what this engine cannot be asked for.

        Raises:
            UsageError: an option that `open` does not carry out.
        """
        refused = [name.replace("_", "-") for name in options.asked() if name not in cls.takes]
        if refused:
            raise UsageError(
                f"the backend {cls.name} takes no {' and no '.join(f'--{name}' for name in refused)}",
                "leave it out, or choose another with --backend",
            )

    def describe(self) -> str:
        """What runs, and where, in a few words."""
        return self.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:  # noqa: B027  an engine that holds nothing needs no method of its own
        """Frees the engine's memory; the backend is of no use afterwards."""

    def moment(self) -> Moment:
        """The present moment, for the time that scales take; an engine that works on after a call has its own."""
        return HostMoment()

    def encode_text(self, token_ids: Sequence[int]) -> np.ndarray:
        """Features of one text, float32 [T, channels]."""
        if not token_ids:
            raise BackendError("no tokens to encode; expected one at least", "give a prompt")
        return self.encode_text_impl(np.asarray([token_ids], dtype=np.int64))[0]

    def begin(self, texts: Sequence[np.ndarray], negatives: Sequence[np.ndarray] | None) -> State:
        """Prepares a batch of images.

        Args:
            texts: features of every image's prompt, float32 [T, channels] each.
            negatives: features of the unconditional rows, or None for a generation without guidance.

        Raises:
            BackendError: no images, or another number of negatives.
        """
        if not texts or (negatives is not None and len(negatives) != len(texts)):
            raise BackendError(
                f"{len(texts)} texts and {0 if negatives is None else len(negatives)} negatives; expected one text at "
                "least, and a negative for each or none",
                "pair them",
            )
        rows = [*texts, *(negatives or ())]
        model = self.model
        empty = self.zeros_impl((len(rows), model.heads, 0, model.head_dim))
        bits = model.code_bits // (4 if model.patchify else 1)
        tensors = self.prepare_rows(rows)
        tensors |= dict.fromkeys(signature.cache_names(model.layers, "past"), empty)
        tensors["summed"] = self.zeros_impl((len(texts), bits, model.latent_height, model.latent_width))
        first = self.grids[0][0] * self.grids[0][1]
        if self.pruning.reuses_guidance:
            tensors["guidance_difference"] = self.from_host_impl(self._no_difference(len(texts), first))
        if self.pruning.caches_updates:
            nothing = self.zeros_impl((len(rows), first, model.width))
            tensors |= dict.fromkeys(signature.update_names(model.layers), nothing)
        return State(tensors, len(texts), len(rows), 0, np.zeros((len(texts), first), np.float32))

    def prepare_rows(self, rows: Sequence[np.ndarray]) -> dict[str, Any]:
        """What a state holds of the texts of its rows, float32 [T, channels] each: the prompt graph's outputs."""
        longest = max(len(row) for row in rows)
        features = np.zeros((len(rows), longest, rows[0].shape[1]), np.float32)
        mask = np.zeros((len(rows), longest), np.float32)
        for index, row in enumerate(rows):
            features[index, : len(row)] = row
            mask[index, : len(row)] = 1
        return self.prepare_impl(features, mask)

    def step(self, state: State, controls: Controls) -> StepResult:
        """Runs the state's scale.

        A scale whose kept counts are all 0 is left out: its bits are drawn, but nothing is added to the sum.

        Raises:
            BackendError: the generation is already complete, noise of another shape was given, or kept counts
                that do not fit the model.
        """
        return self.step_impl(self.checked(state, controls), controls)

    def checked(self, state: State, controls: Controls) -> State:
        """The state to run, without the unconditional rows where they do nothing; errors as of `step`."""
        if state.scale >= len(self.grids):
            raise BackendError(f"all {len(self.grids)} scales are done; expected a new generation", "call begin")
        height, width = self.grids[state.scale]
        expected = (state.images, height * width, self.model.code_bits)
        if controls.noise.shape != expected:
            raise BackendError(f"noise has shape {controls.noise.shape}; expected {expected}", "draw it per scale")
        tokens, kept = height * width, controls.kept
        if kept is not None and (len(kept) != self.model.layers or not all(0 <= count <= tokens for count in kept)):
            raise BackendError(
                f"kept counts {kept}; expected {self.model.layers} from 0 to {tokens}", "take them from a plan"
            )
        if controls.unconditional != "full" and state.rows > state.images:
            return self._without_unconditional(state)
        return state

    def _without_unconditional(self, state: State) -> State:
        rows = list(range(state.images))
        tensors = {
            name: tensor if name in signature.PER_IMAGE else self.take_impl(tensor, rows)
            for name, tensor in state.tensors.items()
        }
        return replace(state, tensors=tensors, rows=state.images)

    def _no_difference(self, images: int, tokens: int) -> np.ndarray:
        return np.zeros((images, tokens, self.model.code_bits, 2), np.float32)

    def select(self, state: State, images: Sequence[int]) -> State:
        """The same generation with some of its images only, in the given order.

        Raises:
            BackendError: no image, or one that is not there.
        """
        if not images or not all(0 <= image < state.images for image in images):
            raise BackendError(
                f"cannot select images {list(images)}; expected some of 0 to {state.images - 1}", "count from 0"
            )
        rows = list(images)
        if state.rows > state.images:
            rows += [state.images + image for image in images]
        picked = {
            name: self.take_impl(tensor, list(images) if name in signature.PER_IMAGE else rows)
            for name, tensor in state.tensors.items()
        }
        prior = state.prior[list(images)]
        return replace(state, tensors=picked, images=len(images), rows=len(rows), prior=prior)

    def decode(self, state: State) -> np.ndarray:
        """The images, float32 [B, 3, height, width] in [-1, 1]."""
        return self.decode_impl(state.tensors["summed"])

    def decode_pictures(self, state: State) -> tuple[np.ndarray, np.ndarray]:
        """The images as `decode` gives them, and as bytes, uint8 [B, height, width, 3]."""
        pixels = self.decode(state)
        scaled = np.clip((pixels.transpose(0, 2, 3, 1) + 1) * 127.5, 0, 255)
        return pixels, scaled.astype(np.uint8)

    def summed(self, state: State) -> np.ndarray:
        """The sum of the codes so far on the final grid, float32 [B, z, h, w]."""
        return self.to_host_impl(state.tensors["summed"])

    def decode_codes(self, codes: np.ndarray) -> np.ndarray:
        """The images of summed codes on a grid of any size.

        Args:
            codes: float32 [B, z, h, w].

        Returns:
            float32 [B, 3, height, width] in [-1, 1].

        Raises:
            BackendError: codes of another shape.
        """
        channels = self.model.code_bits // (4 if self.model.patchify else 1)
        if codes.ndim != 4 or codes.shape[1] != channels or not codes.size:
            raise BackendError(
                f"codes of shape {codes.shape}; expected [images, {channels}, height, width]", "sum them first"
            )
        return self.decode_impl(self.from_host_impl(codes))

    def step_inputs(self, state: State, controls: Controls) -> dict[str, np.ndarray]:
        """The host's share of a step's inputs, by name, in the dtypes of the graphs."""
        scale = state.scale
        conditional = np.arange(state.images)
        given = {name: self.constants[f"{name}.{scale}"] for name in signature.SCALE_CONSTANTS}
        given |= {
            "scale": np.asarray(scale),
            "noise": controls.noise,
            "guidance": np.asarray(controls.guidance, np.float32),
            "temperature": np.asarray(controls.temperature, np.float32),
            "certain": np.asarray(controls.certain, np.float32),
            "conditional_rows": conditional,
            "unconditional_rows": conditional + (state.rows - state.images),
            "image_of_row": np.arange(state.rows) % state.images,
        }
        if self.pruning.reuses_guidance and controls.unconditional != "reused":
            given["guidance_difference"] = self._no_difference(state.images, controls.noise.shape[1])
        if controls.kept is not None:
            if not any(controls.kept):
                # Codes resized by a matrix of zeros add nothing: no graph need know of scales that are left out.
                given["up_rows"] = np.zeros_like(given["up_rows"])
            given |= {
                "order": np.argsort(state.prior, axis=1, kind="stable"),
                "kept": np.asarray(controls.kept, dtype=np.int64),
                "prior": state.prior,
                "entropy_mean": self.constants["entropy_mean"][scale],
                "entropy_deviation": self.constants["entropy_deviation"][scale],
            }
            if self.pruning.carries_logits and "carried_logits" not in state.tensors:
                given["carried_logits"] = self._no_difference(state.images, controls.noise.shape[1])
            if self.pruning.caches_updates:
                for name in ("restore_rows", "restore_columns"):
                    given[name] = self.constants[f"{name}.{state.updated_scale}.{scale}"]
        return given

    def updates(self, state: State, controls: Controls) -> bool:
        """Whether a step's updates are to be cached: where the adaptive graph ran dense."""
        height, width = self.grids[state.scale]
        dense = (height * width,) * self.model.layers
        return self.pruning.caches_updates and controls.kept == dense

    def collect(
        self,
        state: State,
        controls: Controls,
        outputs: Mapping[str, Any],
    ) -> StepResult:
        """A step's outputs by name as its result: caches and sums stay where they are."""
        layers = self.model.layers
        tensors = dict(state.tensors) | {"x": outputs["next_x"], "summed": outputs["next_summed"]}
        past, present = signature.cache_names(layers, "past"), signature.cache_names(layers, "present")
        tensors |= {name: outputs[new] for name, new in zip(past, present, strict=True)}
        if self.pruning.reuses_guidance:
            tensors["guidance_difference"] = outputs["next_guidance_difference"]
        # The dense graph hands on no logits, and those of an earlier scale are of another grid.
        tensors.pop("carried_logits", None)
        if "next_carried_logits" in outputs:
            tensors["carried_logits"] = outputs["next_carried_logits"]
        updated_scale = state.updated_scale
        if self.updates(state, controls):
            updated_scale = state.scale
            new = signature.update_names(layers, "new_update")
            tensors |= dict(zip(signature.update_names(layers), (outputs[name] for name in new), strict=True))
        entropy = self.to_host_impl(outputs["entropy"]) if "entropy" in outputs else None
        if "next_prior" in outputs:
            prior = self.to_host_impl(outputs["next_prior"])
        else:
            height, width = self.grids[min(state.scale + 1, len(self.grids) - 1)]
            prior = np.zeros((state.images, height * width), np.float32)
        following = State(tensors, state.images, state.rows, state.scale + 1, prior, updated_scale)
        return StepResult(following, self.to_host_impl(outputs["bits"]), entropy)

    @abstractmethod
    def encode_text_impl(self, token_ids: np.ndarray) -> np.ndarray:
        """int64 [1, T] to float32 [1, T, channels]."""

    @abstractmethod
    def prepare_impl(self, features: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Outputs of the prompt graph, by name."""

    @abstractmethod
    def step_impl(self, state: State, controls: Controls) -> StepResult:
        """One scale: runs the dense or the adaptive graph and hands its outputs to `collect`."""

    @abstractmethod
    def decode_impl(self, summed: Any) -> np.ndarray:
        """Summed codes to images."""

    @abstractmethod
    def from_host_impl(self, array: np.ndarray) -> Any:
        """An array of the backend's own kind."""

    def zeros_impl(self, shape: tuple[int, ...]) -> Any:
        """float32 zeros in an array of the backend's own kind."""
        return self.from_host_impl(np.zeros(shape, np.float32))

    @abstractmethod
    def to_host_impl(self, tensor: Any) -> np.ndarray:
        """A numpy array of an array of the backend's own kind."""

    @abstractmethod
    def take_impl(self, tensor: Any, rows: list[int]) -> Any:
        """Rows of an array of the backend's own kind."""
