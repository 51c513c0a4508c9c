"""Names and order of every tensor that crosses a graph's border.

The compiler exports graphs with these names, and each backend feeds them: this file is the contract
between the two. Plain data, no framework. Letters in the shapes: B images, R rows (B, or 2 B with
guidance: conditional rows first), L tokens of the scale, L' of the next, K kept, P cached, T text tokens,
C width, H heads, D head dimension, d code bits a token, z code bits a position, (h, w) the final grid,
U tokens of the scale whose updates are cached.
"""

from __future__ import annotations

from dataclasses import dataclass

from toprovar.manifest import ModelRecord
from toprovar.pruning import Pruning

__all__ = [
    "DECODE",
    "PER_IMAGE",
    "SCALE_CONSTANTS",
    "TEXT",
    "Signature",
    "by_token",
    "cache_names",
    "fixed_axes",
    "prompt",
    "step",
    "update_names",
]


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of one graph, in order, each with the names of its axes."""

    inputs: dict[str, tuple[str, ...]]
    outputs: dict[str, tuple[str, ...]]


TEXT = Signature(inputs={"token_ids": ("1", "T")}, outputs={"features": ("1", "T", "channels")})
"""Text encoder, one prompt at a time: int64 token ids to features."""

DECODE = Signature(inputs={"summed": ("B", "z", "h", "w")}, outputs={"image": ("B", "3", "height", "width")})
"""Summed codes to an image in [-1, 1]."""

SCALE_CONSTANTS = {
    "rope": ("2", "L", "D/2"),
    "up_rows": ("h", "code_height"),
    "up_columns": ("w", "code_width"),
    "next_rows": ("next_code_height", "h"),
    "next_columns": ("next_code_width", "w"),
    "carry_rows": ("next_height", "height"),
    "carry_columns": ("next_width", "width"),
}
"""Constant inputs of a step; the tables of scale S are stored as NAME.S (`toprovar.models.geometry`)."""


PER_IMAGE = ("summed", "guidance_difference", "carried_logits")
"""What a state holds for each image; everything else it holds for each row."""


def cache_names(layers: int, stem: str) -> list[str]:
    """``STEM_key.0, STEM_value.0, STEM_key.1, ...``: the order in which caches are passed."""
    return [f"{stem}_{part}.{layer}" for layer in range(layers) for part in ("key", "value")]


def prompt(layers: int) -> Signature:
    """Text features of all rows to what every scale reads; once an image."""
    text = dict.fromkeys(cache_names(layers, "text"), ("R", "H", "T", "D"))
    return Signature(
        inputs={"features": ("R", "T", "channels"), "mask": ("R", "T")},
        outputs={
            "x": ("R", "1", "C"),
            "modulation": ("R", "6", "C"),
            "head_modulation": ("R", "2", "C"),
            "text_bias": ("R", "1", "1", "T"),
            **text,
        },
    )


def update_names(layers: int, stem: str = "update") -> list[str]:
    """Names of what each layer added to the residual stream, for the restoration ``cached``."""
    return [f"{stem}.{layer}" for layer in range(layers)]


def step(layers: int, adaptive: bool, pruning: Pruning = Pruning()) -> Signature:  # noqa: B008  frozen
    """One scale.

    Args:
        layers: number of blocks.
        adaptive: the graph observes entropy and takes an order and kept counts; otherwise it is dense.
        pruning: what the plan fixes of the graph.
    """
    inputs: dict[str, tuple[str, ...]] = {"x": ("R", "L", "C")}
    inputs |= {name: axes for name, axes in prompt(layers).outputs.items() if name != "x"}
    inputs |= {name: ("R", "H", f"P{name.rpartition('.')[2]}", "D") for name in cache_names(layers, "past")}
    inputs |= {"summed": ("B", "z", "h", "w"), "scale": (), **SCALE_CONSTANTS}
    inputs |= {"noise": ("B", "L", "d"), "guidance": (), "temperature": (), "certain": ()}
    inputs |= {"conditional_rows": ("B",), "unconditional_rows": ("B",), "image_of_row": ("R",)}
    outputs: dict[str, tuple[str, ...]] = {
        "bits": ("B", "L", "d"),
        "next_x": ("R", "L'", "C"),
        "next_summed": ("B", "z", "h", "w"),
    }
    if pruning.reuses_guidance:
        inputs |= {"guidance_difference": ("B", "L", "d", "2")}
        outputs |= {"next_guidance_difference": ("B", "L'", "d", "2")}
    if adaptive:
        inputs |= {"order": ("B", "L"), "kept": ("layers",), "prior": ("B", "L")}
        inputs |= {"entropy_mean": ("observers", "H"), "entropy_deviation": ("observers", "H")}
        outputs |= {"entropy": ("B", "L"), "next_prior": ("B", "L'")}
        if pruning.carries_logits:
            inputs |= {"carried_logits": ("B", "L", "d", "2")}
            outputs |= {"next_carried_logits": ("B", "L'", "d", "2")}
        if pruning.caches_updates:
            inputs |= dict.fromkeys(update_names(layers), ("R", "U", "C"))
            inputs |= {"restore_rows": ("height", "update_height"), "restore_columns": ("width", "update_width")}
            outputs |= dict.fromkeys(update_names(layers, "new_update"), ("R", "L", "C"))
    outputs |= dict.fromkeys(cache_names(layers, "present"), ("R", "H", "P + K", "D"))
    return Signature(inputs, outputs)


def by_token(contract: Signature) -> Signature:
    """A step's contract with its cache in the order of tokens.

    ``past`` is [P, R, H, D], and in place of ``present``, which repeats it, ``new`` holds the keys and values of this
    scale alone, [K, R, H, D]: what follows ``past`` in memory when all tokens lie in one piece.
    """
    inputs = {
        name: (axes[2], "R", "H", "D") if name.startswith("past_") else axes for name, axes in contract.inputs.items()
    }
    outputs = {
        name.replace("present_", "new_"): ("K", "R", "H", "D") if name.startswith("present_") else axes
        for name, axes in contract.outputs.items()
    }
    return Signature(inputs, outputs)


def fixed_axes(record: ModelRecord, observers: int, text_channels: int) -> dict[str, int]:
    """Sizes of the axes that a model gives alike to every scale, prompt and batch."""
    return {
        "C": record.width,
        "H": record.heads,
        "D": record.head_dim,
        "D/2": record.head_dim // 2,
        "d": record.code_bits,
        "z": record.code_bits // (4 if record.patchify else 1),
        "layers": record.layers,
        "observers": observers,
        "channels": text_channels,
    }
