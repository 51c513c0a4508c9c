"""Reads prompts for a deployment, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from toprovar.errors import ArtefactError
from toprovar.extras import require
from toprovar.manifest import TextRecord
from toprovar.words import TOKENIZER_FILE, VOCABULARY_FILE, Encoding, Subwords, Vocabulary

__all__ = ["Tokenizer"]


@dataclass(frozen=True)
class Tokenizer:
    """Writes prompts as the token ids that a deployment's text encoder reads.

    Attributes:
        encoding: How words become ids.
        max_tokens: Tokens that the model takes.
    """

    encoding: Encoding
    max_tokens: int

    @classmethod
    def open(cls, folder: Path, record: TextRecord) -> Self | None:
        """Opens the tokenizer of a deployment.

        Args:
            folder: The deployment's `text` folder.
            record: What its manifest says about text.

        Returns:
            None for a deployment that takes features instead of prompts.

        Raises:
            ArtefactError: The file is missing or damaged.
            MissingExtra: It is a T5 tokenizer, and the package that reads it is not installed.
        """
        if record.kind == "features":
            return None
        encoding: Encoding
        if record.kind == "words":
            encoding = Vocabulary.load(folder / VOCABULARY_FILE)
        else:
            encoding = _open_subwords(folder / TOKENIZER_FILE)
        return cls(encoding, record.max_tokens)

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a prompt, without padding.

        Raises:
            UsageError: The prompt is empty, has too many tokens, holds control characters or is
                nothing that the model can read.
        """
        return self.encoding.encode(prompt, self.max_tokens)


def _open_subwords(path: Path) -> Subwords:
    tokenizers = require("tokenizers", "t5")
    try:
        return Subwords(tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")))
    except Exception as error:  # the package raises Exception itself
        raise ArtefactError(f"cannot be read ({error})", "compile the model again", file=path.name) from error
