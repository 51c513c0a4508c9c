"""A real, tiny T5 with random weights and a real tokenizer trained here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from toprovar.errors import CheckpointError, UsageError
from toprovar.manifest import TextRecord
from toprovar.models.bsq_vae import BSQVAE
from toprovar.models.infinity import Infinity
from toprovar.models.loader import load_model
from toprovar.models.t5 import T5Text
from toprovar.runtime.text import Tokenizer

from ..tiny_t5 import SENTENCES, make_t5

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    make_t5(folder)
    return folder


@pytest.fixture(scope="module")
def text(folder: Path) -> T5Text:
    return T5Text(folder)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def test_facts(text: T5Text) -> None:
    assert (text.kind, text.channels, text.max_tokens) == ("t5", 32, 512)
    assert not any(parameter.requires_grad for parameter in text.module.parameters())


@pytest.mark.parametrize("prompt", [*SENTENCES, "a   red\nfox", "ﬁne stars"])
def test_features_are_those_of_transformers(prompt: str, text: T5Text, folder: Path) -> None:
    ids = text.token_ids(prompt)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    # As Infinity calls it: padded to the longest text and masked.
    batch = tokenizer([prompt], max_length=64, padding="max_length", truncation=True, return_tensors="pt")
    assert ids == batch.input_ids[0][batch.attention_mask[0] == 1].tolist()
    assert ids[-1] == tokenizer.eos_token_id
    model = transformers.T5EncoderModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = model(**batch).last_hidden_state[0, : len(ids)]
        actual = text.module(torch.tensor([ids]))[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_the_module_can_be_exported(text: T5Text) -> None:
    ids = torch.tensor([text.token_ids(SENTENCES[0])])
    length = torch.export.Dim("T", min=2, max=512)
    exported = torch.export.export(text.module, (ids,), dynamic_shapes={"token_ids": {1: length}}).module()
    for count in (2, 9, 300):
        other = torch.randint(0, 90, (1, count))
        torch.testing.assert_close(exported(other), text.module(other))


def test_a_deployment_tokenizes_the_same(text: T5Text, tmp_path: Path) -> None:
    for name, content in text.files().items():
        (tmp_path / name).write_bytes(content)
    tokenizer = Tokenizer.open(tmp_path, TextRecord("t5", 32, 512))
    assert tokenizer is not None
    for sentence in SENTENCES:
        assert tokenizer.encode(sentence) == text.token_ids(sentence)


def test_what_it_cannot_read_is_refused(text: T5Text) -> None:
    with pytest.raises(UsageError, match=r"the prompt has \d+ tokens; expected at most 512; shorten it"):
        text.token_ids("fox " * 600)
    with pytest.raises(UsageError, match="cannot read the prompt '一个红色的圆'"):
        text.token_ids("一个红色的圆")
    assert text.token_ids("a red circle 😀")


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"model_type": "bert"}', "{}"])
def test_a_folder_without_a_t5_is_refused(content: str | None, copy: Path) -> None:
    (copy / "config.json").unlink()
    if content is not None:
        (copy / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="give the folder of the encoder"):
        T5Text(copy)
    with pytest.raises(CheckpointError, match="no such folder"):
        T5Text(copy / "nothing")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_a_damaged_folder_is_refused(name: str, damage: str, copy: Path) -> None:
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    if damage != "missing":
        (copy / name).write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(CheckpointError, match=str(copy)) as caught:
        T5Text(copy)
    assert "\n" not in caught.value.one_line()


def test_missing_and_damaged_weights_are_refused(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    key = "encoder.block.1.layer.0.SelfAttention.q.weight"
    save_file(
        {name: value for name, value in state.items() if name != key}, copy / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(CheckpointError, match=f"1 weights are missing, such as {key}"):
        T5Text(copy)
    state[key][0, 0] = float("nan")
    save_file(state, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"1 weights hold NaN or infinity, such as {key}"):
        T5Text(copy)


def test_a_model_and_its_text_encoder(
    folder: Path, tmp_path: Path, make_backbone: Callable[..., Infinity], make_vae: Callable[..., BSQVAE]
) -> None:
    torch.save(make_backbone(text_channels=32).state_dict(), tmp_path / "model.pth")
    torch.save(make_vae().state_dict(), tmp_path / "vae.pth")
    model = load_model(str(tmp_path / "model.pth"), text_encoder=folder)
    assert model.text is not None
    assert (model.text_record().kind, model.text.max_tokens) == ("t5", 6)
    torch.save(make_backbone().state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="a text encoder of 32 channels; expected 12"):
        load_model(str(tmp_path / "model.pth"), text_encoder=folder)
