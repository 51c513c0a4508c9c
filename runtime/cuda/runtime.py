"""Carries out the steps of a generation on one device."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toprovar.errors import BackendError
from toprovar.manifest import ModelRecord
from toprovar.models.bsq_vae import BSQVAE
from toprovar.models.infinity import Infinity
from toprovar.pruning import Pruning
from toprovar.runtime.backends.base import Controls, State, StepResult
from toprovar.runtime.cuda.choose_ops import choose_decoder_ops, choose_ops
from toprovar.runtime.cuda.decoder import Decoder
from toprovar.runtime.cuda.decoding import Decoding
from toprovar.runtime.cuda.generation import Handle
from toprovar.runtime.cuda.graphs import Recorder, Replay
from toprovar.runtime.cuda.host_copy import HostCopy
from toprovar.runtime.cuda.key import StepKey
from toprovar.runtime.cuda.memory import MemoryEstimate, available_bytes, estimate, require
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.cuda.pool import SlotPool
from toprovar.runtime.cuda.program import Engine, ScaleProgram
from toprovar.runtime.cuda.slot import Shapes, Slot
from toprovar.runtime.cuda.tables import Tables
from toprovar.runtime.cuda.text import prepare
from toprovar.runtime.cuda.weights import Weights

__all__ = ["GENERATION", "Runtime"]

GENERATION = "generation"
"""Name under which a state holds its `Handle`."""


class Runtime:
    """One model on one device.

    Args:
        backbone: the transformer; what is on the device in the right type already is shared.
        vae: the image tokenizer.
        model: facts of the model.
        grids: token grid of every scale.
        constants: as a backend has them.
        pruning: what the plan fixes.
        options: how to work.
        device: where.

    Raises:
        BackendError: the model does not fit the device.
    """

    def __init__(
        self,
        backbone: Infinity,
        vae: BSQVAE,
        model: ModelRecord,
        grids: Sequence[tuple[int, int]],
        constants: Mapping[str, np.ndarray],
        pruning: Pruning,
        options: RuntimeOptions,
        device: torch.device,
    ) -> None:
        self._model, self._pruning, self._options, self._device = model, pruning, options, device
        self._factor = 2 if model.patchify else 1
        self._shapes = _shapes(backbone, model, grids, pruning, options)
        self._most_text = backbone.config.text_max_tokens
        if options.precision == "fp8":
            _check_fp8(self._shapes, options, device)
        self.estimate = self._estimate(backbone, vae, 1)
        if device.type == "cuda":
            require(self.estimate, available_bytes(device), f"{model.source} in {options.precision}")
        self._lock = threading.RLock()
        self._failure: str | None = None
        self._closed = False
        self._pool = SlotPool(self._make_slot, self._fits, len(grids))
        with self._guarded():
            self._recorder = Recorder(device) if options.captured and device.type == "cuda" else None
            weights = Weights.load(backbone, options.dtype, device, options.precision == "fp8")
            tables = Tables(grids, constants, device)
            ops = choose_ops(options, device)
            by_image = options.batch_invariant
            self._engine = Engine(weights, tables, pruning, model.guidance_layers, self._factor, ops, by_image)
            self._decoding = Decoding(
                lambda: Decoder(vae, options.dtype, device, choose_decoder_ops(options, device), options.decoder_rows),
                model.image_height // model.latent_height,
                self._recorder,
                options.low_vram,
            )

    def _estimate(self, backbone: Infinity, vae: BSQVAE, images: int) -> MemoryEstimate:
        item = torch.empty(0, dtype=self._options.dtype).element_size()
        text = min(self._options.text_multiple, self._most_text)
        return estimate(backbone, vae, self._shapes, images, 2, item, text)

    def _make_slot(self, images: int, halves: int) -> Slot:
        return Slot(self._shapes, images, halves, self._options.dtype, self._device)

    def _fits(self, images: int, halves: int) -> bool:
        if self._device.type != "cuda":
            return True
        item = torch.empty(0, dtype=self._options.dtype).element_size()
        needed = sum(self._shapes.bytes_of(images * halves, images, item).values())
        return needed <= available_bytes(self._device)

    def step(self, state: State, controls: Controls) -> StepResult:
        """Runs a state's scale; `state` was checked and is without unconditional rows where they do nothing.

        Raises:
            BackendError: the generation was given up, or the device failed.
        """
        with self._lock, self._guarded():
            handle = state.tensors[GENERATION] if GENERATION in state.tensors else self._begin(state)
            handle.check()
            key = self._key(state, controls, handle)
            self._feed(handle.slot, state, controls)
            self._program(handle.slot, key)()
            return self._collect(state, controls, handle, key)

    def _begin(self, state: State) -> Handle:
        """Takes a slot and prepares the text that `begin` put into the state."""
        features, mask = state.tensors["features"], state.tensors["mask"]
        images, halves = state.images, state.rows // state.images
        slot = self._pool.acquire(images, halves)
        # Of the rows of a state the conditional ones come first; a slot has those of an image side by side.
        rows = [half * images + image for image in range(images) for half in range(halves)]
        lengths = [int(length) for length in mask.sum(1)[rows]]
        multiple = self._options.text_multiple
        text = min(-(-max(lengths) // multiple) * multiple, max(self._most_text, max(lengths)))
        given = torch.from_numpy(np.ascontiguousarray(features[rows])).to(self._device)
        prepare(self._engine.weights, slot, slot.text(text), given, lengths, multiple)
        slot.forget_updates()
        return self._pool.hold(Handle(slot, halves, text, (0,) * self._model.layers, ()))

    def _key(self, state: State, controls: Controls, handle: Handle) -> StepKey:
        tokens = self._engine.tables.scales[state.scale].tokens
        kept = controls.kept
        pruning = self._pruning
        dense = (tokens,) * self._model.layers
        return StepKey(
            scale=state.scale,
            halves=handle.halves,
            kept=None if kept is None else tuple(self._options.rounded(count, tokens) for count in kept),
            past=handle.past,
            ranks=kept is not None and controls.ranks,
            reuses=pruning.reuses_guidance and controls.unconditional == "reused",
            carried_logits=kept is not None and "carried_logits" in state.tensors,
            updates=pruning.caches_updates and kept == dense,
            updated_scale=state.updated_scale if pruning.caches_updates and kept is not None else 0,
            text=handle.text,
        )

    def _feed(self, slot: Slot, state: State, controls: Controls) -> None:
        """Copies what a step reads into the slot."""
        slot.summed_in.copy_(state.tensors["summed"])
        scalars = np.array([controls.guidance, controls.temperature, controls.certain], np.float32)
        host = torch.from_numpy(np.concatenate([scalars, controls.noise.ravel()]))
        if self._device.type == "cuda":
            host = host.pin_memory()
        slot.host_inputs[: len(host)].copy_(host, non_blocking=True)
        tokens = controls.noise.shape[1]
        if controls.kept is not None:
            prior = state.prior.tensor if isinstance(state.prior, HostCopy) else torch.from_numpy(state.prior)
            slot.prior_in(tokens).copy_(prior)
        for name, stored in (("difference", "guidance_difference"), ("logits", "carried_logits")):
            if stored in state.tensors:
                slot.pairs_in(name, tokens).copy_(state.tensors[stored])

    def _program(self, slot: Slot, key: StepKey) -> Replay:
        if key not in slot.programs:
            slot.programs[key] = Replay(ScaleProgram(self._engine, slot, key).run, self._recorder)
        return slot.programs[key]

    def _collect(self, state: State, controls: Controls, handle: Handle, key: StepKey) -> StepResult:
        """What a step left in its slot, as a state of its own."""
        slot, pruning = handle.slot, self._pruning
        scales = self._engine.tables.scales
        tokens = scales[state.scale].tokens
        following = scales[min(state.scale + 1, len(scales) - 1)].tokens
        kept = (tokens,) * self._model.layers if key.kept is None else key.kept
        past = tuple(before + own for before, own in zip(handle.past, kept, strict=True))
        after = self._pool.hold(handle.claim(past, key.updates))
        tensors: dict[str, Any] = {GENERATION: after, "summed": slot.summed_out.clone()}
        if pruning.reuses_guidance:
            tensors["guidance_difference"] = slot.pairs_out("difference", following).clone()
        if pruning.carries_logits and key.kept is not None:
            tensors["carried_logits"] = slot.pairs_out("logits", following).clone()
        prior: Any = np.zeros((state.images, following), np.float32)
        entropy: Any = None
        if key.ranks:
            prior = HostCopy(slot.prior_out(following).clone())
            entropy = HostCopy(slot.entropy(tokens))
        updated = state.scale if key.updates else state.updated_scale
        rows = state.images * handle.halves
        result: Any = HostCopy(slot.bits(tokens))
        return StepResult(State(tensors, state.images, rows, state.scale + 1, prior, updated), result, entropy)

    def take(self, handle: Handle, rows: Sequence[int]) -> Handle:
        """A generation's rows, conditional ones first, as `Backend.take_impl`."""
        slot = handle.slot
        with self._lock, self._guarded():
            handle.check()
            if handle.halves == 2 and list(rows) == list(range(slot.images)):
                return self._pool.hold(replace(handle, halves=1))
            return self._pool.hold(self._copied(handle, rows))

    def _copied(self, handle: Handle, rows: Sequence[int]) -> Handle:
        """A copy of some images in a slot of their own."""
        old = handle.slot
        images = list(rows)[: len(rows) // handle.halves]
        # Parts of a batch must not take one another's slots.
        new = self._pool.acquire(len(images), old.halves, takes=False)
        picked = torch.tensor(
            [image * old.halves + half for image in images for half in range(old.halves)], device=self._device
        )
        for layer, past in enumerate(handle.past):
            new.cache[layer][:, :, :, :past] = old.cache[layer][:, picked, :, :past]
        new.start.copy_(old.start[picked])
        new.modulation.copy_(old.modulation[:, picked])
        new.head_modulation.copy_(old.head_modulation[picked])
        source, target = old.text(handle.text), new.text(handle.text)
        for name in ("tensor", "lengths", "bias"):
            getattr(target, name).copy_(getattr(source, name)[picked])
        new.forget_updates()
        for scale, updates in old.updates.items():
            for theirs, own in zip(updates, new.update(scale, updates[0].shape[1]), strict=True):
                own.copy_(theirs[picked])
        new.owners[:] = handle.owners
        new.update_owner = handle.update_owner
        return replace(handle, slot=new)

    def decode(self, summed: Tensor) -> HostCopy:
        """Summed codes fp32 [B, z, h, w] to images fp32 [B, 3, height, width] in [-1, 1]."""
        with self._lock, self._guarded():
            return self._decoding(summed)

    def close(self) -> None:
        """Frees the device's memory; of what it shares with the model, only what nobody else holds."""
        with self._lock:
            if self._closed:
                return
            failed = self._failure is not None
            self._failure, self._closed = self._failure or "this session is closed", True
            self._pool.clear()
            del self._engine, self._decoding, self._recorder
            if self._device.type == "cuda" and not failed:
                torch.cuda.empty_cache()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Turns what a device may raise into errors that say what to do."""
        if self._failure is not None:
            raise BackendError(f"cannot go on: {self._failure}", "open a new session, in a new process if a GPU failed")
        try:
            yield
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "")
            if not any(name in reason for name in ("CUDA", "cuDNN", "CUBLAS")):
                raise
            if "out of memory" in reason:
                self._release()
                raise BackendError(
                    f"the GPU is out of memory ({reason})",
                    "run fewer images at a time, or free the GPU; the session can be used again",
                ) from error
            self._failure = f"the GPU failed ({reason})"
            raise BackendError(self._failure, "start a new process; what it was doing is lost") from error

    def _release(self) -> None:
        """Gives up every generation and graph."""
        if hasattr(self, "_decoding"):  # memory may run out while the weights are loaded
            self._decoding.forget()
        self._pool.clear()
        torch.cuda.empty_cache()


def _check_fp8(shapes: Shapes, options: RuntimeOptions, device: torch.device) -> None:
    """Refuses what row-wise fp8 products cannot do.

    Raises:
        BackendError: the GPU has none, or the model's widths are none that they take.
    """
    if options.fused and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise BackendError(
            f"{torch.cuda.get_device_name(device)} has no fp8 products; expected compute capability 8.9 or later",
            "use bf16",
        )
    if shapes.width % 16 or shapes.hidden % 16:
        raise BackendError(
            f"a model {shapes.width} and {shapes.hidden} channels wide in fp8; expected multiples of 16", "use bf16"
        )


def _shapes(
    backbone: Infinity,
    model: ModelRecord,
    grids: Sequence[tuple[int, int]],
    pruning: Pruning,
    options: RuntimeOptions,
) -> Shapes:
    tokens = [height * width for height, width in grids]
    config = backbone.config
    return Shapes(
        layers=config.depth,
        width=config.width,
        heads=config.heads,
        head_dim=config.head_dim,
        hidden=config.hidden,
        code_bits=config.code_bits,
        code_channels=config.code_bits // (4 if model.patchify else 1),
        latent=(model.latent_height, model.latent_width),
        tokens=max(tokens),
        cached=sum(tokens),
        carries_pairs=pruning.reuses_guidance or pruning.carries_logits,
        scaled=options.precision == "fp8",
    )
