"""Prompts to token ids: the same rules where a model is trained, compiled and run. No framework."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from toprovar.artefact import Artefact
from toprovar.conform import refuse
from toprovar.errors import UsageError

__all__ = ["TOKENIZER_FILE", "VOCABULARY_FILE", "Encoding", "Subwords", "Vocabulary", "split"]

VOCABULARY_FILE = "vocabulary.json"
"""A `Vocabulary` in the `text` folder of a deployment."""

TOKENIZER_FILE = "tokenizer.json"
"""A tokenizer of the `tokenizers` package in the same place."""

_MOST_NAMED = 4
_LONGEST_NAMED = 24


class Encoding(Protocol):
    """A way to write a prompt as token ids."""

    def encode(self, prompt: str, most: int) -> list[int]:
        """Token ids of a prompt, without padding.

        Args:
            prompt: The text.
            most: Tokens that the model takes.

        Raises:
            UsageError: The prompt is empty, too long, or nothing that the model can read.
        """


def split(text: str) -> list[str]:
    """Words of a text in lower case; the punctuation `,` and `.` is ignored."""
    return text.lower().replace(",", " ").replace(".", " ").split()


@dataclass(frozen=True)
class Vocabulary(Artefact):
    """A closed list of words, one token a word.

    Attributes:
        words: The words by token id; those in angle brackets are the model's own.
        about: What the words name, for the error about an unknown one.
    """

    schema_version: Literal[1] = field(default=1, kw_only=True)
    words: tuple[str, ...]
    about: str

    def validate(self) -> None:
        """Checks that no word is listed twice and that a prompt can hold each of them."""
        seen: set[str] = set()
        for position, word in enumerate(self.words):
            if word in seen or split(word) != [word]:
                raise refuse(f"words[{position}]", "one word in lower case, listed once", word)
            seen.add(word)

    def encode(self, prompt: str, most: int) -> list[int]:
        """Word indices; see `Encoding.encode`."""
        _require_text(prompt)
        words = split(prompt)
        if not words:
            raise UsageError("the prompt holds no word", f"name {self.about}")
        _require_length(len(words), most, "words")
        index = {word: position for position, word in enumerate(self.words) if not word.startswith("<")}
        unknown = [word for word in dict.fromkeys(words) if word not in index]
        if unknown:
            raise UsageError(
                f"the model does not know {_named(unknown)}; expected English words for {self.about}",
                _suggestion(unknown, index) or f"{VOCABULARY_FILE} lists the {len(index)} words that it knows",
            )
        return [index[word] for word in words]


class Subwords:
    """Pieces of words, as T5 reads them.

    Args:
        tokenizer: A `tokenizers.Tokenizer`; its padding and truncation are switched off.
    """

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._unknown = tokenizer.token_to_id("<unk>")

    def encode(self, prompt: str, most: int) -> list[int]:
        """Token ids with the tokenizer's closing token; see `Encoding.encode`."""
        _require_text(prompt)
        encoding = self._tokenizer.encode(prompt)
        ids = list(encoding.ids)
        _require_length(len(ids), most, "tokens")
        known = [
            token
            for index, token, special in zip(ids, encoding.tokens, encoding.special_tokens_mask, strict=True)
            if index != self._unknown and not special and any(map(str.isalnum, token))
        ]
        if self._unknown in ids and not known:
            raise UsageError(
                f"the model cannot read the prompt {_short(prompt)}; expected a script that its tokenizer knows",
                "write it in English",
            )
        return ids


def _require_text(prompt: str) -> None:
    for position, character in enumerate(prompt):
        # Cs: half of a pair, which is how Python holds bytes of an argument that are not UTF-8.
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
            raise UsageError(
                f"the prompt holds the control character {character!r} at position {position}; expected plain text",
                "remove it",
            )
    if not prompt.strip():
        raise UsageError("the prompt is empty; expected a description of an image", "write at least one word")


def _require_length(count: int, most: int, unit: str) -> None:
    if count > most:
        raise UsageError(f"the prompt has {count} {unit}; expected at most {most}", "shorten it")


def _named(words: list[str]) -> str:
    listed = ", ".join(_short(word) for word in words[:_MOST_NAMED])
    rest = f" and {len(words) - _MOST_NAMED} more" if len(words) > _MOST_NAMED else ""
    return f"the word{'s' if len(words) > 1 else ''} {listed}{rest}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_NAMED else f"{text[: _LONGEST_NAMED - 3]}...")


def _suggestion(unknown: list[str], known: Iterable[str]) -> str | None:
    if len(unknown) > _MOST_NAMED:
        return None
    known = list(known)
    pairs = [(word, difflib.get_close_matches(word[:_LONGEST_NAMED], known, n=1, cutoff=0.7)) for word in unknown]
    if not all(close for _, close in pairs):
        return None
    return f"did you mean {', '.join(repr(close[0]) for _, close in pairs)}?"
