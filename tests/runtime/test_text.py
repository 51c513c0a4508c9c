"""Prompts of a deployment: ids without torch, and one clear line for what cannot be read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toprovar.errors import ArtefactError, UsageError
from toprovar.manifest import TextRecord
from toprovar.models.nano.vocabulary import ABOUT, MAX_WORDS, PADDING, UNKNOWN, WORDS, encode
from toprovar.runtime.text import Tokenizer
from toprovar.words import VOCABULARY_FILE, Vocabulary, split

RECORD = TextRecord("words", 128, MAX_WORDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    Vocabulary(WORDS, ABOUT).save(folder / VOCABULARY_FILE)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.open(folder, RECORD)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize(
    "prompt",
    ["a red circle", "A RED Circle.", "  a\tred,circle \n", ". two small, striped red stars on a gray background .,"],
)
def test_ids_are_those_of_training(prompt: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.encode(prompt) == [index for index in encode(prompt) if index != PADDING]


def test_a_deployment_of_features_has_no_tokenizer(folder: Path) -> None:
    assert Tokenizer.open(folder, TextRecord("features", 2048, 512)) is None


@pytest.mark.parametrize("prompt", ["", " ", "\t\n ", "\u3000"])
def test_an_empty_prompt(prompt: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"the prompt is empty; expected a description of an image"):
        tokenizer.encode(prompt)


def test_a_prompt_of_punctuation(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"the prompt holds no word; name numbers, sizes"):
        tokenizer.encode(" ., ,")


def test_a_prompt_that_is_too_long(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("red " * MAX_WORDS)) == MAX_WORDS
    with pytest.raises(UsageError, match=r"the prompt has 25 words; expected at most 24; shorten it"):
        tokenizer.encode("red " * 25)
    with pytest.raises(UsageError, match=r"the prompt has 1000000 words"):
        tokenizer.encode("dog " * 1_000_000)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a red elephant", "the word 'elephant'"),
        ("ein roter Kreis", "the words 'ein', 'roter', 'kreis'"),
        ("un petit cercle rouge à gauche", "the words 'un', 'petit', 'cercle', 'rouge' and 2 more"),
        ("一个红色的圆", "the word '一个红色的圆'"),
        ("красный круг", "the words 'красный', 'круг'"),
        ("<unk> <pad>", "the words '<unk>', '<pad>'"),
        ("dog dog dog", "the word 'dog'"),
        ("x" * 10_000, f"the word '{'x' * 21}...'"),
    ],
)
def test_words_that_it_does_not_know(prompt: str, named: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError) as caught:
        tokenizer.encode(prompt)
    line = caught.value.one_line()
    assert f"the model does not know {named}; expected English words for numbers, sizes, textures" in line
    assert len(line) < 400
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("prompt", "meant"), [("a red circel", "'circle'"), ("a grey backround", "'gray', 'background'")]
)
def test_a_slip_of_the_pen(prompt: str, meant: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match=rf"did you mean {meant}\?"):
        tokenizer.encode(prompt)


@pytest.mark.parametrize("character", ["\0", "\x1b", "\x7f", "\x85", "\udcff", "\x1f"])
def test_control_characters(character: str, tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match=r"holds the control character '\\\S+' at position 5; expected plain text"):
        tokenizer.encode(f"a red{character} circle")


@given(st.text())
def test_any_text_is_encoded_or_refused_in_one_line(prompt: str) -> None:
    try:
        ids = Tokenizer(Vocabulary(WORDS, ABOUT), MAX_WORDS).encode(prompt)
    except UsageError as error:
        line = error.one_line()
        assert len(line) < 500
        line.encode()  # can be printed
    else:
        assert UNKNOWN not in ids
        assert ids == [index for index in encode(prompt) if index != PADDING]


@given(st.lists(st.sampled_from(WORDS[2:]), min_size=1, max_size=MAX_WORDS))
def test_every_caption_of_known_words_is_encoded(words: list[str]) -> None:
    assert [WORDS[index] for index in Vocabulary(WORDS, ABOUT).encode(" ".join(words), MAX_WORDS)] == words


@given(st.text())
def test_splitting_is_what_training_did(text: str) -> None:
    assert split(text) == text.lower().replace(",", " ").replace(".", " ").split()


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 1, "words": ["A"], "about": "b"}', "[1]"])
def test_a_damaged_vocabulary(content: str, tmp_path: Path) -> None:
    (tmp_path / VOCABULARY_FILE).write_text(content)
    with pytest.raises(ArtefactError, match=r"vocabulary\.json"):
        Tokenizer.open(tmp_path, RECORD)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"vocabulary\.json: no such file"):
        Tokenizer.open(tmp_path, RECORD)


def test_a_damaged_subword_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    for content in (None, b"", b"{}", b"\xff\xfe"):
        if content is not None:
            (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ArtefactError, match=r"tokenizer\.json: cannot be read \(.*\); compile the model again"):
            Tokenizer.open(tmp_path, TextRecord("t5", 2048, 512))


def test_no_framework_is_imported() -> None:
    code = "import sys, toprovar.runtime.text; print({'torch', 'transformers', 'tokenizers'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"
