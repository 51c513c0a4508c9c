"""Decides whether an image shows what its prompt asks for.

- An object matches a noun phrase if every attribute that the phrase names agrees; what it leaves
  open, including the texture, is free.
- Every noun phrase needs objects of its own. Counting prompts allow no other object at all; the
  other prompts tolerate extra objects of size "small" and refuse larger ones.
- A relation compares centres: they are at least 16 pixels apart along its axis, and further apart
  along it than across it.
- A region compares the centre with the canvas: "left" is its left 42 %, "top left" the left and
  upper 42 %, "center" the middle 24 % both ways.
- A background matches if its colour agrees, and its texture if the prompt names one.
"""

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from toprovar.evaluation.shape_eval.detections import DetectedObject, Detection
from toprovar.evaluation.shape_eval.detector import detect
from toprovar.models.nano import attributes
from toprovar.models.nano.captions import (
    BackgroundRequirement,
    ObjectRequirement,
    Requirements,
    caption,
)

__all__ = ["CheckResult", "Verdict", "check", "check_detection"]

_RELATION_MARGIN: Final = 16.0  # pixels
_SIDE: Final = 0.42 * attributes.CANVAS
_CENTER: Final = 0.12 * attributes.CANVAS  # from the middle of the canvas


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one requirement holds, and why.

    Attributes:
        requirement: What was asked, in words.
        ok: Whether the image shows it.
        reason: What was found, in words.
    """

    requirement: str
    ok: bool
    reason: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The verdicts on one image; `ok` if all of them are."""

    ok: bool
    verdicts: tuple[Verdict, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        """One sentence per requirement that does not hold."""
        return tuple(f"{one.requirement}: {one.reason}" for one in self.verdicts if not one.ok)


def check(requirements: Requirements, image: NDArray[np.uint8]) -> CheckResult:
    """Checks an image against the requirements of its prompt.

    Args:
        requirements: What the prompt asks for.
        image: RGB, uint8 [256, 256, 3].

    Returns:
        A verdict for every requirement.

    Raises:
        ValueError: The image has another shape or type.
    """
    return check_detection(requirements, detect(image))


def check_detection(requirements: Requirements, detection: Detection) -> CheckResult:
    """Checks what was found in an image; see `check`."""
    found = detection.objects
    assignment = _assign(requirements, found)
    verdicts = [_object_verdict(wanted, found) for wanted in requirements.objects]
    if assignment is None and all(verdict.ok for verdict in verdicts):
        verdicts.append(_joint_verdict(requirements, found))
    verdicts.append(_extras_verdict(requirements, found, assignment))
    if requirements.background is not None:
        verdicts.append(_background_verdict(requirements.background, detection))
    return CheckResult(all(verdict.ok for verdict in verdicts), tuple(verdicts))


def _assign(requirements: Requirements, found: tuple[DetectedObject, ...]) -> tuple[DetectedObject, ...] | None:
    """Picks distinct objects for all noun phrases, or None if that is impossible."""
    candidates = [[one for one in found if not _mismatches(wanted, one)] for wanted in requirements.objects]
    if len(candidates) == 1:
        count = requirements.objects[0].count
        return tuple(candidates[0][:count]) if len(candidates[0]) >= count else None
    for first, second in itertools.product(*candidates):
        if first is not second and (requirements.relation is None or _stands(first, requirements.relation, second)):
            return first, second
    return None


def _mismatches(wanted: ObjectRequirement, found: DetectedObject) -> list[str]:
    """The attributes of an object that disagree with a noun phrase, in words."""
    pairs = (
        (wanted.shape, found.shape),
        (wanted.colour, found.colour),
        (wanted.texture, found.texture),
        (wanted.size, found.size),
    )
    wrong = [f"{seen} instead of {asked}" for asked, seen in pairs if asked not in (None, seen)]
    if wanted.region is not None and not _within(found, wanted.region):
        wrong.append(f"not in the region {wanted.region}")
    return wrong


def _within(found: DetectedObject, region: str) -> bool:
    if region == "center":
        middle = attributes.CANVAS / 2
        return max(abs(found.x - middle), abs(found.y - middle)) <= _CENTER
    tests = {
        "left": found.x <= _SIDE,
        "right": found.x >= attributes.CANVAS - _SIDE,
        "top": found.y <= _SIDE,
        "bottom": found.y >= attributes.CANVAS - _SIDE,
    }
    return all(tests[side] for side in region.split())


def _stands(first: DetectedObject, relation: str, second: DetectedObject) -> bool:
    along, across = second.x - first.x, second.y - first.y
    if relation in ("above", "below"):
        along, across = across, along
    if relation in ("right of", "below"):
        along = -along
    return along >= max(_RELATION_MARGIN, abs(across))


def _object_verdict(wanted: ObjectRequirement, found: tuple[DetectedObject, ...]) -> Verdict:
    asked = caption(Requirements("", (wanted,)))
    matching = [one for one in found if not _mismatches(wanted, one)]
    if len(matching) >= wanted.count:
        return Verdict(asked, True, f"found {len(matching)}")
    if not found:
        return Verdict(asked, False, "the image shows no object")
    others = [one for one in found if one not in matching]
    reason = f"found {len(matching)}"
    if others:
        closest = min(others, key=lambda one: len(_mismatches(wanted, one)))
        reason += f"; closest is a {closest.describe()}: {', '.join(_mismatches(wanted, closest))}"
    return Verdict(asked, False, reason)


def _joint_verdict(requirements: Requirements, found: tuple[DetectedObject, ...]) -> Verdict:
    """Explains why phrases that match one by one do not match together."""
    asked = caption(Requirements("", requirements.objects, requirements.relation))
    seen = ", ".join(one.describe() for one in found)
    if requirements.relation is None or len(found) == 1:
        return Verdict(asked, False, f"there is only one such object among: {seen}")
    return Verdict(asked, False, f"nothing stands in this relation among: {seen}")


def _extras_verdict(
    requirements: Requirements,
    found: tuple[DetectedObject, ...],
    assignment: tuple[DetectedObject, ...] | None,
) -> Verdict:
    """Refuses objects beyond those asked for; unassigned ones count only if all are too many."""
    exact = requirements.category == "counting"
    asked = "no other object" if exact else "no other object of medium or large size"
    relevant = [one for one in found if exact or one.size != "small"]
    if assignment is not None:
        extras = [one for one in relevant if one not in assignment]
    else:
        wanted = sum(one.count for one in requirements.objects)
        extras = relevant[wanted:]
    if extras:
        return Verdict(asked, False, f"found also a {extras[0].describe()}")
    return Verdict(asked, True, "found none")


def _background_verdict(wanted: BackgroundRequirement, detection: Detection) -> Verdict:
    seen = detection.background
    ok = wanted.colour == seen.colour and wanted.texture in (None, seen.texture)
    asked = f"{wanted.texture} {wanted.colour}" if wanted.texture else wanted.colour
    return Verdict(f"{asked} background", ok, f"found {seen.texture} {seen.colour}")
