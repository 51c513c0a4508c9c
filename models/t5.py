"""The text encoder of the published Infinity models: the encoder of a T5, such as flan-t5-xl."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from toprovar.errors import CheckpointError
from toprovar.extras import require
from toprovar.words import TOKENIZER_FILE, Subwords

__all__ = ["T5Text"]


class _LastHidden(nn.Module):
    """T5's encoder over token ids without padding."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, token_ids: Tensor) -> Tensor:
        return self.encoder(input_ids=token_ids, attention_mask=torch.ones_like(token_ids)).last_hidden_state


class T5Text:
    """Encoder and tokenizer from a folder in the layout of transformers.

    Nothing is downloaded, and no code of the folder is run.

    Args:
        folder: config.json, the weights and the tokenizer's files; a decoder's weights are left out.
        max_tokens: tokens that the backbone takes.

    Raises:
        CheckpointError: the folder holds no T5, or one with missing or damaged weights.
        MissingExtra: transformers is not installed.
    """

    kind: Literal["t5"] = "t5"

    def __init__(self, folder: Path, max_tokens: int = 512) -> None:
        transformers = require("transformers", "t5")
        tokenizers = require("tokenizers", "t5")
        _require_t5(folder)
        with _as_checkpoint_error(folder):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            # A copy: padding and truncation of the original are the caller's.
            self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
            encoder, report = transformers.T5EncoderModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
        # transformers only warns, and fills what is missing with random numbers.
        missing = sorted(map(str, (*report["missing_keys"], *report["mismatched_keys"])))
        if missing:
            raise CheckpointError(
                f"{folder}: {len(missing)} weights are missing, such as {missing[0]}", "download it again"
            )
        damaged = [name for name, value in encoder.named_parameters() if not torch.isfinite(value).all()]
        if damaged:
            raise CheckpointError(
                f"{folder}: {len(damaged)} weights hold NaN or infinity, such as {damaged[0]}", "download it again"
            )
        self._subwords = Subwords(self._tokenizer)
        self.module: nn.Module = _LastHidden(encoder.requires_grad_(False)).eval()
        self.channels = int(encoder.config.d_model)
        self.max_tokens = max_tokens

    def token_ids(self, prompt: str) -> list[int]:
        """Ids with the closing token; see `toprovar.models.text.TextEncoder.token_ids`."""
        return self._subwords.encode(prompt, self.max_tokens)

    def files(self) -> dict[str, bytes]:
        """The tokenizer; see `toprovar.models.text.TextEncoder.files`."""
        return {TOKENIZER_FILE: self._tokenizer.to_str().encode()}


def _require_t5(folder: Path) -> None:
    hint = "give the folder of the encoder that the model was trained with, flan-t5-xl for Infinity"
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; expected one with a T5 encoder", hint)
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: holds no config.json; expected the folder of a T5 encoder", hint) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: not the configuration of a model", hint) from error
    if kind != "t5":
        raise CheckpointError(f"{folder}: holds a model of type {kind!r}; expected 't5'", hint)


@contextlib.contextmanager
def _as_checkpoint_error(folder: Path) -> Iterator[None]:
    """Everything that transformers raises for a damaged folder, which is almost any kind of error."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise CheckpointError(f"{folder}: not a readable T5 encoder ({reason})", "download it again") from error
