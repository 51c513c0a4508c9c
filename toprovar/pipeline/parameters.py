"""Parameters of a policy as a user writes them: NAME=VALUE, checked against the policy's own fields."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from toprovar.calibration.policy import Policy
from toprovar.errors import UsageError

__all__ = ["with_parameters"]


def with_parameters(policy: Policy, name: str, parameters: Mapping[str, str]) -> Policy:
    """The policy with some of its fields changed.

    Args:
        policy: a frozen dataclass.
        name: what it is called in messages.
        parameters: texts by the fields' names.

    Raises:
        UsageError: no such field, or a text that does not fit it.
    """
    fields = [field.name for field in dataclasses.fields(policy)]  # type: ignore[arg-type]
    kinds = typing.get_type_hints(type(policy))
    values = {}
    for key, text in parameters.items():
        if key not in fields:
            expected = f"one of {', '.join(fields)}" if fields else "none"
            raise UsageError(f"policy {name!r} has no parameter {key!r}; expected {expected}")
        try:
            values[key] = _parsed(text, kinds[key])
        except ValueError as error:
            raise UsageError(f"parameter {key} of policy {name!r}: {error}") from None
    return dataclasses.replace(policy, **values)  # type: ignore[type-var]


def _parsed(text: str, kind: Any) -> Any:
    """A text as a value of an annotation.

    Raises:
        ValueError: it is none.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if text.lower() == "none":
            return None
        return _parsed(text, next(one for one in arguments if one is not type(None)))
    if origin is typing.Literal:
        if text not in arguments:
            raise ValueError(f"expected one of {', '.join(map(str, arguments))}, got {text!r}")
        return text
    if origin is tuple:
        return tuple(_parsed(part, arguments[0]) for part in text.replace(",", " ").split())
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"expected true or false, got {text!r}")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"expected {'an integer' if kind is int else 'a number'}, got {text!r}") from None
    if kind is str:
        return text
    raise ValueError("cannot be set from the command line")
