"""Between what a module takes and gives and what the graph of an engine does: cache by token, one step for all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toprovar.signature import Signature

__all__ = ["engine_feed", "engine_outputs"]

_TO_TOKENS = (2, 0, 1, 3)

Arrays = Mapping[str, np.ndarray]


def engine_feed(feed: Arrays, contract: Signature, observers: int) -> dict[str, np.ndarray]:
    """What a step is fed, from what a dense or adaptive module was.

    Args:
        feed: a module's inputs by name.
        contract: the step's, by token.
        observers: layers that the plan observes.
    """
    given = {name: _turned(value, _TO_TOKENS) if name.startswith("past_") else value for name, value in feed.items()}
    missing = [name for name in contract.inputs if name not in given]
    given |= _unpruned(given, missing, contract, observers)
    return {name: given[name] for name in contract.inputs}


def engine_outputs(outputs: Arrays, feed: Arrays) -> dict[str, np.ndarray]:
    """What a step gives, from what a dense or adaptive module did: of a cache, the new tokens alone.

    Args:
        outputs: a module's outputs by name.
        feed: its inputs by name.
    """
    given = {}
    for name, value in outputs.items():
        if name.startswith("present_"):
            past = feed[name.replace("present_", "past_")].shape[2]
            given[name.replace("present_", "new_")] = _turned(value[:, :, past:], _TO_TOKENS)
        else:
            given[name] = value
    return given


def _unpruned(given: Arrays, missing: list[str], contract: Signature, observers: int) -> dict[str, np.ndarray]:
    """Inputs that the dense module has no use for: nothing is pruned, and nobody looks at the order."""
    if not missing:
        return {}
    images, tokens = given["noise"].shape[:2]
    layers = sum(name.startswith("past_key.") for name in contract.inputs)
    heads = given["past_key.0"].shape[2]
    rows, width = given["x"].shape[0], given["x"].shape[2]
    height, across = given["carry_rows"].shape[1], given["carry_columns"].shape[1]
    made: dict[str, np.ndarray] = {
        "order": np.tile(np.arange(tokens), (images, 1)),
        "kept": np.full(layers, tokens),
        "prior": np.zeros((images, tokens), np.float32),
        "entropy_mean": np.zeros((observers, heads), np.float32),
        "entropy_deviation": np.ones((observers, heads), np.float32),
        "carried_logits": np.zeros((*given["noise"].shape, 2), np.float32),
        "restore_rows": np.eye(height, dtype=np.float32),
        "restore_columns": np.eye(across, dtype=np.float32),
    }
    made |= {name: np.zeros((rows, tokens, width), np.float32) for name in missing if name.startswith("update.")}
    return {name: made[name] for name in missing}


def _turned(value: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(value.transpose(axes))
