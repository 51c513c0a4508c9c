"""JSON files that are read strictly, written atomically and easy to read and to diff."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from toprovar.errors import ArtefactError

__all__ = [
    "MAXIMUM_BYTES",
    "cannot_write",
    "is_disk_full",
    "parse",
    "read_text",
    "render",
    "write_text",
]

MAXIMUM_BYTES = 64 << 20
"""No artefact comes near this size: a larger file is something else, or damaged."""

_LINE = 100
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def parse(text: str) -> object:
    """Parses JSON, refusing what Python's parser lets through.

    Raises:
        ArtefactError: The text is no JSON, repeats a key, holds NaN or an infinity, or nests too
            deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ArtefactError(
            f"not valid JSON at line {error.lineno} column {error.colno}: {error.msg[:1].lower()}{error.msg[1:]}",
            "the file is truncated or was edited by hand",
        ) from None
    except RecursionError:
        raise ArtefactError("not valid: nested too deeply") from None
    except ValueError:
        # Python refuses to convert integers of more than 4,300 digits.
        raise ArtefactError("not valid: an integer is too long") from None


def read_text(path: Path) -> str:
    """Reads an artefact's text.

    Raises:
        ArtefactError: The file is missing, unreadable, too large or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAXIMUM_BYTES + 1)
    except FileNotFoundError:
        raise ArtefactError("no such file", file=str(path)) from None
    except OSError as error:
        raise ArtefactError(f"cannot be read: {error.strerror}", file=str(path)) from None
    if len(data) > MAXIMUM_BYTES:
        raise ArtefactError(f"too large; expected at most {MAXIMUM_BYTES >> 20} MiB", file=str(path))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ArtefactError(f"not UTF-8 at byte {error.start}", file=str(path)) from None


def write_text(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part.

    Raises:
        ArtefactError: The file cannot be written; the old one is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("x", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise cannot_write(path, error) from error


def is_disk_full(error: BaseException) -> bool:
    """Whether an exception, an OSError or a library's own, says that no space was left."""
    if isinstance(error, ArtefactError):
        return False
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return os.strerror(errno.ENOSPC) in str(error)


def cannot_write(path: Path, error: BaseException) -> ArtefactError:
    """The error for a file or folder that could not be written."""
    if is_disk_full(error):
        reason, hint = "no space is left on its disk", "free some, or write to another disk"
    else:
        reason, hint = getattr(error, "strerror", None) or str(error), None
    return ArtefactError(f"cannot be written: {reason}", hint, file=str(path))


def render(value: object, indent: int = 0) -> str:
    """Renders JSON: lists of numbers and short records on one line, all else an entry a line.

    Args:
        value: JSON values; no NaN and no infinity.
        indent: Columns that the value is indented by.
    """
    flat = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, Mapping):
        items, brackets = list(value.values()), "{}"
        names = [json.dumps(name, ensure_ascii=False) + ": " for name in value]
        on_one_line = False
    elif isinstance(value, list):
        items, brackets = value, "[]"
        names = [""] * len(items)
        on_one_line = all(isinstance(item, int | float) for item in items)
    else:
        return flat
    short = indent + len(flat) <= _LINE and not any(map(_holds_record, items))
    if on_one_line or short:
        return flat
    inner = " " * (indent + 2)
    lines = (f"{inner}{name}{render(item, indent + 2)}" for name, item in zip(names, items, strict=True))
    body = ",\n".join(lines)
    return f"{brackets[0]}\n{body}\n{' ' * indent}{brackets[1]}"


def _holds_record(value: object) -> bool:
    if isinstance(value, list):
        return any(map(_holds_record, value))
    return isinstance(value, Mapping)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ArtefactError("given twice; expected once", field=name)
            seen.add(name)
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ArtefactError(f"not valid: holds {name}; expected finite numbers")
