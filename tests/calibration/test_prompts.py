"""Prompt files as people write them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from toprovar.calibration.prompts import GENERAL_PROMPTS, prompts_digest, read_prompts
from toprovar.errors import UsageError


def test_blank_lines_and_margins_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa red circle\r\n\r\n   \t\n  two dogs  \n\nein Käfer".encode())
    assert read_prompts(file) == ("a red circle", "two dogs", "ein Käfer")


@pytest.mark.parametrize("content", [b"", b"\n \n\t\r\n", b"\xef\xbb\xbf"])
def test_a_file_without_prompts(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"prompts\.txt holds no prompt; expected one a line; write at least one"):
        read_prompts(tmp_path / "prompts.txt")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a caf\xe9", b"\x80"])
def test_a_file_that_is_not_utf_8(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot be read as text .*; expected prompts in UTF-8") as caught:
        read_prompts(tmp_path / "prompts.txt")
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UsageError, match="cannot be read as text"):
            read_prompts(path)


def test_repeated_and_long_prompts_are_read_as_they_are(tmp_path: Path) -> None:
    long = "a red circle and " * 100_000
    (tmp_path / "prompts.txt").write_text(f"two dogs\n{long}\ntwo dogs\n")
    assert read_prompts(tmp_path / "prompts.txt") == ("two dogs", long.strip(), "two dogs")


def test_a_digest_is_of_the_prompts_and_their_order() -> None:
    sets = [("a", "b"), ("b", "a"), ("a", "b", "b"), ("ab",), ("a",)]
    assert len({prompts_digest(one) for one in sets}) == len(sets)
    assert prompts_digest(["a", "ü"]) == hashlib.sha256("a\nü".encode()).hexdigest()


def test_general_prompts_differ() -> None:
    assert len(set(GENERAL_PROMPTS)) == len(GENERAL_PROMPTS) >= 16
    assert all(prompt == prompt.strip() != "" for prompt in GENERAL_PROMPTS)
