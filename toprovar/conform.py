"""Checks values against annotations: the one place that says what an artefact's field may hold."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import numbers
import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from toprovar.errors import ArtefactError

__all__ = ["Bounds", "Pattern", "build", "conform", "field_kinds", "refuse", "shown", "to_plain"]

_T = TypeVar("_T")
_INTEGER_LIMIT = 1 << 63
_ABSENT = object()


@dataclasses.dataclass(frozen=True)
class Bounds:
    """A number's range, for `Annotated`; `over` excludes its end, the others include theirs."""

    least: float | None = None
    most: float | None = None
    over: float | None = None

    def check(self, value: Any, path: str) -> None:
        """Raises `ArtefactError` for a number outside the range."""
        low = (self.least is None or value >= self.least) and (self.over is None or value > self.over)
        if not (low and (self.most is None or value <= self.most)):
            what = "an integer" if isinstance(value, int) else "a number"
            raise refuse(path, f"{what} {self._words()}", value)

    def _words(self) -> str:
        if self.least is not None and self.most is not None:
            return f"from {self.least:g} to {self.most:g}"
        words = [
            f"{name} {bound:g}"
            for name, bound in (
                ("of at least", self.least),
                ("above", self.over),
                ("of at most", self.most),
            )
            if bound is not None
        ]
        return " and ".join(words)


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A text's form, for `Annotated`.

    Attributes:
        form: Regular expression that the whole text matches.
        words: The same in words, for the error.
    """

    form: str
    words: str

    def check(self, value: Any, path: str) -> None:
        """Raises `ArtefactError` for a text of another form."""
        if re.fullmatch(self.form, value) is None:
            raise refuse(path, self.words, value)


def refuse(path: str, expected: str, value: object) -> ArtefactError:
    """The error for a field: `PATH: expected EXPECTED, got VALUE`."""
    return ArtefactError(f"expected {expected}, got {shown(value)}", field=path)


def shown(value: object) -> str:
    """A value in an error message: short, and in JSON's words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return f"an object with {len(value)} fields"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, str | numbers.Number):
        text = repr(value) if isinstance(value, str) else str(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    return f"an object of type {type(value).__name__}"


def field_kinds(cls: type) -> dict[str, Any]:
    """The annotation of each field of a dataclass, in order."""
    return _field_kinds(cls)


@functools.cache
def _field_kinds(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def build(cls: type[_T], value: object, path: str = "") -> _T:
    """Makes a dataclass from parsed JSON.

    Args:
        cls: The dataclass.
        value: Parsed JSON; every field must be there, and no other.
        path: Where `value` stands, for errors.

    Raises:
        ArtefactError: With the path of the first field that is unknown, missing or wrong.
    """
    if not isinstance(value, Mapping):
        raise refuse(path, "an object", value)
    kinds = field_kinds(cls)
    for name in value:
        if name not in kinds:
            raise ArtefactError(f"unknown field; expected {', '.join(kinds)}", field=_join(path, name))
    for name in kinds:
        if name not in value:
            raise ArtefactError("missing", field=_join(path, name))
    fields = {name: conform(kind, value[name], _join(path, name)) for name, kind in kinds.items()}
    try:
        return cls(**fields)
    except ArtefactError as error:
        raise error.under(path) from None


def conform(kind: Any, value: object, path: str = "") -> Any:
    """Checks a value against an annotation.

    Numbers and sequences of other types become the annotated ones without loss, so that NumPy
    scalars, lists and whole numbers for floats are welcome; a bool is never a number.

    Args:
        kind: An annotation made of bool, int, float, str, Literal, Enum, tuple, Mapping with text
            keys, dataclasses, unions of scalars, `X | None`, and Annotated with `Bounds` or
            `Pattern`.
        value: A Python or parsed JSON value.
        path: Where the value stands, for errors.

    Returns:
        The value, with tuples for lists and dataclasses for objects.

    Raises:
        ArtefactError: With the path of the first part that does not conform.
        TypeError: The annotation is not one of the above.
    """
    if kind in (bool, int, float, str):
        return _scalar(kind, value, path)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        checked = conform(arguments[0], value, path)
        for rule in arguments[1:]:
            rule.check(checked, path)
        return checked
    if origin is tuple:
        return _sequence(arguments, value, path)
    if origin is Literal:
        return _choice({choice: choice for choice in arguments}, value, path)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, path)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise refuse(path, "an object", value)
        names = [conform(arguments[0], name, path) for name in value]
        return {name: conform(arguments[1], value[name], _join(path, name)) for name in names}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        if isinstance(value, kind):
            return value
        return _choice({member.value: member for member in kind}, value, path)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else build(kind, value, path)
    raise TypeError(f"an artefact's field cannot be annotated with {kind}")


def to_plain(value: object) -> Any:
    """Turns artefacts into JSON values; the entries of mappings are sorted."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: to_plain(value[name]) for name in sorted(value)}
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def _scalar(kind: type, value: object, path: str) -> object:
    if kind is bool:
        if isinstance(value, bool):
            return value
        raise refuse(path, "true or false", value)
    if kind is str:
        if not isinstance(value, str):
            raise refuse(path, "a text", value)
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ArtefactError("expected a text, got half a surrogate pair", field=path)
        return value
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise refuse(path, "an integer", value)
        integer = int(value)
        if not -_INTEGER_LIMIT <= integer < _INTEGER_LIMIT:
            raise refuse(path, "an integer of 64 bits", value)
        return integer
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise refuse(path, "a number", value)
    try:
        number = value if type(value) is float else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise refuse(path, "a finite number", value)
    return number


def _sequence(arguments: tuple[Any, ...], value: object, path: str) -> object:
    if not isinstance(value, list | tuple):
        raise refuse(path, "a list", value)
    if arguments[-1] is Ellipsis:
        kinds = (arguments[0],) * len(value)
    elif len(value) == len(arguments):
        kinds = arguments
    else:
        raise refuse(path, f"a list of {len(arguments)}", value)
    return tuple(
        conform(kind, item, f"{path}[{index}]") for index, (kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _choice(choices: Mapping[Any, object], value: object, path: str) -> object:
    for choice, meaning in choices.items():
        # 1 == True == 1.0, hence the types.
        if type(choice) is type(value) and choice == value:
            return meaning
    names = ", ".join(repr(choice) for choice in choices)
    raise refuse(path, names if len(choices) == 1 else f"one of {names}", value)


def _union(kinds: tuple[Any, ...], value: object, path: str) -> object:
    if value is None and types.NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not types.NoneType]
    if len(others) == 1:
        return conform(others[0], value, path)
    order = ((bool, bool), (int, numbers.Integral), (float, numbers.Real), (str, str))
    for kind, family in order:
        if kind in others and isinstance(value, family):
            return _scalar(kind, value, path)
    words = {bool: "true, false", int: "an integer", float: "a number", str: "a text"}
    raise refuse(path, " or ".join(words[kind] for kind in others), value)


def _join(path: str, name: object) -> str:
    text = str(name) if re.fullmatch(r"[\w./-]{1,80}", str(name)) else shown(name)
    return f"{path}.{text}" if path else text
