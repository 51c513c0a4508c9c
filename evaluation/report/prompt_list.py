"""The example prompts, numbered as in the figures."""

from __future__ import annotations

from collections.abc import Sequence

from toprovar.evaluation.report.examples import Example

__all__ = ["prompt_list"]


def prompt_list(examples: Sequence[Example]) -> str:
    """The prompts for a caption: their text stays out of the figures, whose fonts lack most scripts."""
    return f"Prompts: {'; '.join(f'{index}, {one.prompt}' for index, one in enumerate(examples, start=1))}."
