"""ShapeEval: prompts whose images can be checked exactly, in GenEval's categories and texture."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from toprovar.evaluation.shape_eval.checker import CheckResult, Verdict, check
from toprovar.evaluation.shape_eval.prompts import (
    CALIBRATION_PROMPTS,
    HELD_OUT,
    PROMPTS,
    ShapePrompt,
)
from toprovar.models.nano.captions import CATEGORIES

__all__ = [
    "CALIBRATION_PROMPTS",
    "CATEGORIES",
    "HELD_OUT",
    "PROMPTS",
    "CategoryScore",
    "CheckResult",
    "ShapePrompt",
    "ShapeScore",
    "Verdict",
    "check",
    "score",
    "summarise",
]


@dataclass(frozen=True, slots=True)
class CategoryScore:
    """How many images of a category show what their prompts ask for."""

    category: str
    passed: int
    total: int

    @property
    def share(self) -> float:
        """Passed per total, 0 to 1."""
        return self.passed / self.total


@dataclass(frozen=True, slots=True)
class ShapeScore:
    """The score of a set of images.

    Attributes:
        categories: One score per category that occurs, in the order of `CATEGORIES`.
        results: The result of every image, in the order given.
    """

    categories: tuple[CategoryScore, ...]
    results: tuple[CheckResult, ...]

    @property
    def mean(self) -> float:
        """Mean of the categories' shares, 0 to 1, as in GenEval."""
        return sum(one.share for one in self.categories) / len(self.categories)


def score(prompts: Sequence[ShapePrompt], images: Iterable[NDArray[np.uint8]]) -> ShapeScore:
    """Checks one image per prompt; repeat a prompt to judge several of its images.

    Args:
        prompts: The prompts, such as `PROMPTS`.
        images: Their images in the same order, RGB, uint8 [256, 256, 3].

    Returns:
        The score per category, with the result of every image.

    Raises:
        ValueError: There are more or fewer images than prompts, or none.
    """
    images = iter(images)
    results = tuple(check(prompt.requirements, image) for prompt, image in zip(prompts, images, strict=False))
    if len(results) != len(prompts) or next(images, None) is not None:
        raise ValueError(
            f"{len(prompts)} prompts need as many images, but their numbers differ; "
            "give one image per prompt, in the same order"
        )
    return summarise(prompts, results)


def summarise(prompts: Sequence[ShapePrompt], results: Sequence[CheckResult]) -> ShapeScore:
    """Sums up results that were computed one by one.

    Raises:
        ValueError: There are more or fewer results than prompts, or none.
    """
    if not prompts or len(prompts) != len(results):
        raise ValueError(
            f"{len(prompts)} prompts and {len(results)} results; give one result per prompt, and at least one"
        )
    passed: dict[str, list[bool]] = {category: [] for category in CATEGORIES}
    for prompt, result in zip(prompts, results, strict=True):
        passed.setdefault(prompt.requirements.category, []).append(result.ok)
    categories = tuple(CategoryScore(category, sum(oks), len(oks)) for category, oks in passed.items() if oks)
    return ShapeScore(categories, tuple(results))


class _Suite:
    """ShapeEval under the interface of `toprovar.extensions.SUITES`.

    Attributes:
        models: models whose pictures it can judge.
    """

    models = ("nano",)

    @staticmethod
    def calibration_prompts() -> tuple[ShapePrompt, ...]:
        """What may be tuned on; none of the held-out prompts is among them."""
        return CALIBRATION_PROMPTS

    @staticmethod
    def prompts(limit: int | None = None) -> tuple[ShapePrompt, ...]:
        """The held-out prompts, or `limit` of them spread over all categories."""
        if limit is None or limit >= len(PROMPTS):
            return PROMPTS
        return tuple(PROMPTS[index * len(PROMPTS) // limit] for index in range(limit))

    score = staticmethod(score)


SUITE = _Suite()
