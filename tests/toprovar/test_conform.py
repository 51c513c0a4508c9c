"""Values against annotations."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from toprovar.conform import Bounds, Pattern, conform, to_plain
from toprovar.errors import ArtefactError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Point:
    x: int
    colour: Colour


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (int, np.int64(5), 5),
        (float, 2, 2.0),
        (float, np.float32(0.5), 0.5),
        (float, 0.1, 0.1),
        (bool, True, True),
        (str, "späť", "späť"),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (Mapping[str, int], {"a": 1}, {"a": 1}),
        (int | None, None, None),
        (int | float | str | bool, True, True),
        (int | float | str | bool, 1, 1),
        (int | float | str | bool, 1.0, 1.0),
        (Literal["a", "b"], "b", "b"),
        (Colour, "red", Colour.RED),
        (Colour, Colour.RED, Colour.RED),
        (Point, {"x": 1, "colour": "blue"}, Point(1, Colour.BLUE)),
        (tuple[Point, ...], [{"x": 1, "colour": "blue"}], (Point(1, Colour.BLUE),)),
        (Annotated[int, Bounds(least=0, most=3)], 3, 3),
    ],
    ids=repr,
)
def test_accepts(kind: Any, value: object, expected: object) -> None:
    result = conform(kind, value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, True, "f: expected an integer, got true"),
        (int, 1.0, "f: expected an integer, got 1.0"),
        (int, 1 << 63, "f: expected an integer of 64 bits, got 9223372036854775808"),
        (float, False, "f: expected a number, got false"),
        (float, "1", "f: expected a number, got '1'"),
        (float, math.nan, "f: expected a finite number, got nan"),
        (float, math.inf, "f: expected a finite number, got inf"),
        (float, 10**400, "f: expected a finite number, got " + "1" + "0" * 56 + "..."),
        (bool, 1, "f: expected true or false, got 1"),
        (str, None, "f: expected a text, got null"),
        (str, "\ud800", "f: expected a text, got half a surrogate pair"),
        (tuple[int, ...], "ab", "f: expected a list, got 'ab'"),
        (tuple[int, ...], [1, None], "f[1]: expected an integer, got null"),
        (tuple[int, int], [1], "f: expected a list of 2, got a list of 1"),
        (Mapping[str, int], [1], "f: expected an object, got a list of 1"),
        (Mapping[str, int], {"a": "b"}, "f.a: expected an integer, got 'b'"),
        (Mapping[str, int], {"a\x1b": "b"}, "f.'a\\x1b': expected an integer, got 'b'"),
        (Mapping[str, int], {1: 1}, "f: expected a text, got 1"),
        (int | float | str, None, "f: expected an integer or a number or a text, got null"),
        (int | float | str, math.nan, "f: expected a finite number, got nan"),
        (Literal["a", "b"], "c", "f: expected one of 'a', 'b', got 'c'"),
        (Literal[1], True, "f: expected 1, got true"),
        (Literal[1], 1.0, "f: expected 1, got 1.0"),
        (Colour, "green", "f: expected one of 'red', 'blue', got 'green'"),
        (Point, {"x": 1}, "f.colour: missing"),
        (Point, {"x": 1, "colour": "red", "y": 2}, "f.y: unknown field; expected x, colour"),
        (Annotated[int, Bounds(least=0, most=3)], 4, "f: expected an integer from 0 to 3, got 4"),
        (Annotated[int, Bounds(least=1)], 0, "f: expected an integer of at least 1, got 0"),
        (Annotated[float, Bounds(over=0)], 0.0, "f: expected a number above 0, got 0.0"),
        (Annotated[float, Bounds(most=1)], 1.5, "f: expected a number of at most 1, got 1.5"),
        (Annotated[str, Pattern("[a-f]+", "letters")], "abc\n", "f: expected letters, got 'abc\\n'"),
    ],
    ids=repr,
)
def test_refuses(kind: Any, value: object, message: str) -> None:
    with pytest.raises(ArtefactError) as caught:
        conform(kind, value, "f")
    assert str(caught.value) == message


def test_an_unsupported_annotation_is_a_bug() -> None:
    with pytest.raises(TypeError, match="cannot be annotated"):
        conform(list[int], [1])


def test_plain_sorts_mappings_and_unpacks_enums() -> None:
    value = {"b": (Point(1, Colour.RED),), "a": None}
    plain = to_plain(value)
    assert plain == {"a": None, "b": [{"x": 1, "colour": "red"}]}
    assert list(plain) == ["a", "b"]
