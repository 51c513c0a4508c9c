"""Text encoders behind one protocol, and nano's, which reads words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from torch import Tensor, nn

from toprovar.errors import CheckpointError
from toprovar.models.checkpoint import load_strictly
from toprovar.models.meta import shapes_only
from toprovar.models.nano.text_encoder import WordEncoder
from toprovar.models.nano.vocabulary import ABOUT, WORDS
from toprovar.words import VOCABULARY_FILE, Vocabulary

__all__ = ["TextEncoder", "WordText"]


class TextEncoder(Protocol):
    """A prompt's way to the features that a backbone reads.

    Attributes:
        kind: as `toprovar.manifest.TextRecord` has it.
        channels: channels of a text token.
        max_tokens: text tokens at most.
        module: int64 token ids [1, T] to float [1, T, channels]; can be exported.
    """

    kind: Literal["words", "t5"]
    channels: int
    max_tokens: int
    module: nn.Module

    def token_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt, unpadded.

        Raises:
            UsageError: the prompt is empty, too long, or nothing that the model can read.
        """

    def files(self) -> Mapping[str, bytes]:
        """What a deployment's ``text`` folder must hold to tokenize without torch, by file name."""


class WordText:
    """nano's encoder: one token a word of a closed vocabulary.

    Args:
        state: tensors of a `WordEncoder`.
        source: where they are from, for errors.

    Raises:
        CheckpointError: the tensors are not those of such an encoder, or of another vocabulary.
    """

    kind: Literal["words"] = "words"

    def __init__(self, state: Mapping[str, Tensor], source: str) -> None:
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        try:
            with shapes_only():
                module = WordEncoder.from_shapes(shapes)
        except (KeyError, ValueError, IndexError) as error:
            raise CheckpointError(
                f"{source}: not a text encoder of nano ({error})", "install toprovar again"
            ) from error
        load_strictly(module, state, source)
        if shapes["embedding.weight"][0] != len(WORDS):
            raise CheckpointError(
                f"{source}: knows {shapes['embedding.weight'][0]} words; expected {len(WORDS)}",
                "train it again with this version's vocabulary",
            )
        self.module: nn.Module = module.eval()
        self.max_tokens, self.channels = shapes["position"]
        self._vocabulary = Vocabulary(WORDS, ABOUT)

    def token_ids(self, prompt: str) -> list[int]:
        """Word indices; see `TextEncoder.token_ids`."""
        return self._vocabulary.encode(prompt, self.max_tokens)

    def files(self) -> dict[str, bytes]:
        """The vocabulary; see `TextEncoder.files`."""
        return {VOCABULARY_FILE: self._vocabulary.to_json().encode()}
