"""nano's word encoder behind the protocol of text encoders."""

from __future__ import annotations

import pytest
import torch

from toprovar.errors import CheckpointError, UsageError
from toprovar.models.nano.text_encoder import WordEncoder
from toprovar.models.nano.vocabulary import MAX_WORDS, PADDING, WORDS, encode
from toprovar.models.text import WordText
from toprovar.words import VOCABULARY_FILE, Vocabulary


@pytest.fixture(scope="module")
def words() -> WordText:
    torch.manual_seed(0)
    return WordText(WordEncoder(len(WORDS), 64, MAX_WORDS).state_dict(), "nano")


@pytest.mark.parametrize("prompt", ["a red circle", " Two  SMALL striped, blue stars on a gray background. "])
def test_ids_are_those_of_training(prompt: str, words: WordText) -> None:
    assert words.token_ids(prompt) == [index for index in encode(prompt) if index != PADDING]


def test_facts(words: WordText) -> None:
    assert (words.kind, words.channels, words.max_tokens) == ("words", 64, MAX_WORDS)
    assert Vocabulary.from_json(words.files()[VOCABULARY_FILE].decode()).words == WORDS


def test_the_module_sees_what_training_saw(words: WordText) -> None:
    ids = torch.tensor([encode("a red circle above a blue star")])
    length = len(words.token_ids("a red circle above a blue star"))
    padded = words.module(ids, (ids > 0).float())
    torch.testing.assert_close(words.module(ids[:, :length]), padded[:, :length])


def test_the_module_can_be_exported(words: WordText) -> None:
    ids = torch.tensor([words.token_ids("a red circle above a blue star")])
    length = torch.export.Dim("T", min=2, max=MAX_WORDS)
    exported = torch.export.export(words.module, (ids,), dynamic_shapes={"token_ids": {1: length}})
    other = ids[:, :3]
    torch.testing.assert_close(exported.module()(other), words.module(other))


def test_an_unknown_word_is_refused(words: WordText) -> None:
    with pytest.raises(UsageError, match="does not know the word 'dog'"):
        words.token_ids("a red dog")


def test_another_vocabulary_is_refused() -> None:
    with pytest.raises(CheckpointError, match=rf"knows 9 words; expected {len(WORDS)}"):
        WordText(WordEncoder(9, 64, MAX_WORDS).state_dict(), "nano")


def test_other_tensors_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not a text encoder of nano"):
        WordText({"weight": torch.zeros(2, 2)}, "nano")
