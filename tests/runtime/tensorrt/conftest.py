"""Shared fixtures."""

from ...tiny_nano import _one_thread

__all__ = ["_one_thread"]
