"""Shared fixtures."""

from ..tiny_nano import _one_thread, compiled, weights

__all__ = ["_one_thread", "compiled", "weights"]
