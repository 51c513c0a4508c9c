"""A real, tiny T5 with random weights and a real tokenizer trained here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

CHANNELS = 32
SENTENCES = (
    "a photo of a red circle on a table",
    "two small blue stars above the green hills",
    "an oil painting of an old sailor, smoking a pipe",
    "The quick brown fox jumps over the lazy dog.",
)


def train_tokenizer() -> transformers.PreTrainedTokenizerFast:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    tokenizer.normalizer = tokenizers.normalizers.NFKC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    trainer = tokenizers.trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    # As in files that were saved after a call with both: neither may reach the model.
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def make_t5(folder: Path) -> None:
    """Saves model and tokenizer as they are published: the decoder too, which loading leaves out."""
    train_tokenizer().save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.T5Config(
            d_model=CHANNELS, d_kv=16, d_ff=64, num_layers=2, num_heads=2, vocab_size=96, feed_forward_proj="gated-gelu"
        )
        transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
