"""Carries out the steps of a generation on one device."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toprovar.errors import BackendError
from toprovar.manifest import ModelRecord
from toprovar.models.observer import Observer
from toprovar.models.tensors import DecoderTensors, PackedDecoder, PackedTransformer, TransformerTensors
from toprovar.pruning import Pruning
from toprovar.runtime.backends.base import Controls, State, StepResult
from toprovar.runtime.cuda.choose_ops import choose_decoder_ops, choose_ops
from toprovar.runtime.cuda.decoder import Decoder
from toprovar.runtime.cuda.decoding import Decoding
from toprovar.runtime.cuda.faults import DeviceFault, naming_faults
from toprovar.runtime.cuda.generation import Handle
from toprovar.runtime.cuda.graphs import Recorder, Replay
from toprovar.runtime.cuda.host_copy import HostCopy
from toprovar.runtime.cuda.key import StepKey
from toprovar.runtime.cuda.memory import MemoryEstimate, available_bytes, cheaper, estimate, gibibytes, require
from toprovar.runtime.cuda.options import RuntimeOptions
from toprovar.runtime.cuda.pool import SlotPool
from toprovar.runtime.cuda.program import Engine, ScaleProgram
from toprovar.runtime.cuda.slot import Shapes, Slot
from toprovar.runtime.cuda.support import fp8_obstacle
from toprovar.runtime.cuda.tables import Tables
from toprovar.runtime.cuda.text import TextProgram
from toprovar.runtime.cuda.text_buffer import TextForm
from toprovar.runtime.cuda.watched_ops import watched
from toprovar.runtime.cuda.weights import Weights

__all__ = ["GENERATION", "TEXTS", "Runtime"]

GENERATION = "generation"
"""Name under which a state holds its `Handle`."""
TEXTS = "texts"
"""Name under which a state that was not stepped yet holds the features of its rows, [T, channels] each."""


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
        encoder: bytes of the text encoder, which shares the device.
        observer: told of every layer of a dense step as soon as the step is queued. What it is shown are buffers that
            the next step writes to.

    Raises:
        BackendError: the model does not fit the device.
    """

    def __init__(
        self,
        backbone: PackedTransformer,
        vae: PackedDecoder,
        model: ModelRecord,
        grids: Sequence[tuple[int, int]],
        constants: Mapping[str, np.ndarray],
        pruning: Pruning,
        options: RuntimeOptions,
        device: torch.device,
        encoder: int = 0,
        observer: Observer | None = None,
    ) -> None:
        self._observer = observer
        self._model, self._pruning, self._options, self._device = model, pruning, options, device
        self._factor = 2 if model.patchify else 1
        self._shapes = _shapes(backbone, model, grids, pruning, options, observer is not None)
        self._most_text = backbone.config.text_max_tokens
        if options.precision == "fp8":
            problem = fp8_obstacle(self._shapes.width, self._shapes.hidden, device)
            if problem is not None:
                raise BackendError(problem, "use bf16")
        tensors, decoder = backbone.tensors(), vae.decoder_tensors()
        self.estimate = self._estimate(tensors, decoder, encoder, options)
        if device.type == "cuda":
            remedies = self._remedies(tensors, decoder, encoder)
            require(self.estimate, available_bytes(device), f"{model.source} in {options.precision}", remedies)
        self._lock = threading.RLock()
        self._failure: str | None = None
        self._closed = False
        self._pool = SlotPool(self._make_slot, self._fits, len(grids))
        with self._guarded():
            captured = options.captured and not options.shows_logits
            self._recorder = Recorder(device) if captured and device.type == "cuda" else None
            weights = Weights.load(tensors, options.dtype, device, options.precision == "fp8")
            tables = Tables(grids, constants, device)
            self._shown: list[Tensor] = []
            ops = choose_ops(options, device)
            if options.shows_logits:
                ops = watched(ops, self._shown.append)
            by_image = options.batch_invariant
            self._engine = Engine(weights, tables, pruning, model.guidance_layers, self._factor, ops, by_image)
            self._decoding = Decoding(
                lambda: Decoder(
                    decoder, options.dtype, device, choose_decoder_ops(options, device), options.decoder_rows
                ),
                model.image_height // model.latent_height,
                self._recorder,
                options.low_vram,
            )

    def _estimate(
        self, model: TransformerTensors, decoder: DecoderTensors, encoder: int, options: RuntimeOptions
    ) -> MemoryEstimate:
        """For one image with guidance."""
        shapes = replace(self._shapes, scaled=options.precision == "fp8")
        text = min(options.text_multiple, self._most_text)
        return estimate(model, decoder, shapes, 1, 2, options.dtype.itemsize, text, encoder, options.low_vram)

    def _remedies(self, model: TransformerTensors, decoder: DecoderTensors, encoder: int) -> list[str]:
        """What would need less memory."""
        own = self._options
        others = {
            "--precision bf16": replace(own, precision="bf16"),
            "--precision fp8": replace(own, precision="fp8"),
            "--low-vram": replace(own, low_vram=True),
        }
        estimates = {name: self._estimate(model, decoder, encoder, other) for name, other in others.items()}
        return [*cheaper(self.estimate, estimates), "compiling for a lower --resolution"]

    def _make_slot(self, images: int, halves: int) -> Slot:
        if not self._fits(images, halves):
            needed = sum(self._shapes.bytes_of(images * halves, images, self._options.dtype.itemsize).values())
            raise BackendError(
                f"a batch of {images} needs {gibibytes(needed)} for cache and activations; the GPU has "
                f"{gibibytes(available_bytes(self._device))} free",
                "run fewer images at a time, or free the GPU; the session can be used again",
            )
        return Slot(self._shapes, images, halves, self._options.dtype, self._device)

    def _fits(self, images: int, halves: int) -> bool:
        if self._device.type != "cuda":
            return True
        needed = sum(self._shapes.bytes_of(images * halves, images, self._options.dtype.itemsize).values())
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
            if self._observer is not None and key.kept is None:
                tokens = self._engine.tables.scales[key.scale].tokens
                observed = handle.slot.observed(handle.slot.images * key.halves, tokens)
                observed.tell(self._observer, key.scale, handle.slot.images)
            return self._collect(state, controls, handle, key)

    def probe(self, state: State, controls: Controls) -> tuple[StepResult, Tensor]:
        """As `step`, with the guided logits that the bits were drawn from, over temperature, fp32 [B, L, d, 2]."""
        if not self._options.shows_logits:
            raise BackendError("this runtime was not asked to show logits", "open one that shows_logits")
        self._shown.clear()
        result = self.step(state, controls)
        return result, self._shown.pop()

    def _begin(self, state: State) -> Handle:
        """Takes a slot and prepares the text that `begin` put into the state."""
        images, halves = state.images, state.rows // state.images
        slot = self._pool.acquire(images, halves)
        # Of the rows of a state the conditional ones come first; a slot has those of an image side by side.
        texts = [state.tensors[TEXTS][half * images + image] for image in range(images) for half in range(halves)]
        lengths = list(map(len, texts))
        head_dim, multiple = self._model.head_dim, self._options.text_multiple
        longest = (max(lengths[image * halves : (image + 1) * halves]) for image in range(images))
        forms = tuple(TextForm.of(length, head_dim, multiple) for length in longest)
        program, replay = self._text_program(slot, forms)
        program.feed(texts)
        replay()
        slot.forget_updates()
        return self._pool.hold(Handle(slot, halves, forms, (0,) * self._model.layers, ()))

    def _text_program(self, slot: Slot, forms: tuple[TextForm, ...]) -> tuple[TextProgram, Replay]:
        if forms not in slot.text_programs:
            program = TextProgram(self._engine.weights, slot, forms, self._engine.ops)
            slot.text_programs[forms] = program, Replay(program.run, self._recorder)
        return slot.text_programs[forms]

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
        given = torch.from_numpy(np.concatenate([scalars, controls.noise.ravel()]))
        if self._device.type == "cuda":
            given = given.pin_memory()
        slot.host_inputs[: len(given)].copy_(given, non_blocking=True)
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
        text = tuple(handle.text[image] for image in images)
        for form in set(text):
            source, target = old.text(form), new.text(form)
            for field in fields(source):
                getattr(target, field.name).copy_(getattr(source, field.name)[picked])
        new.forget_updates()
        for scale, updates in old.updates.items():
            for theirs, own in zip(updates, new.update(scale, updates[0].shape[1]), strict=True):
                own.copy_(theirs[picked])
        new.owners[:] = handle.owners
        new.update_owner = handle.update_owner
        return replace(handle, slot=new, text=text)

    def decode(self, summed: Tensor) -> tuple[HostCopy, HostCopy]:
        """Summed codes fp32 [B, z, h, w] to images, fp32 [B, 3, height, width] in [-1, 1], and to their bytes."""
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
            with naming_faults():
                yield
        except DeviceFault as fault:
            if fault.recoverable:
                self._release()
            else:
                self._failure = fault.message
            raise

    def _release(self) -> None:
        """Gives up every generation and graph."""
        if hasattr(self, "_decoding"):  # memory may run out while the weights are loaded
            self._decoding.forget()
        self._pool.clear()
        torch.cuda.empty_cache()


def _shapes(
    backbone: PackedTransformer,
    model: ModelRecord,
    grids: Sequence[tuple[int, int]],
    pruning: Pruning,
    options: RuntimeOptions,
    observed: bool,
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
        observed=observed,
    )
