"""Which form a text is kept in."""

from __future__ import annotations

import pytest

from toprovar.runtime.cuda.text_buffer import TextForm


@pytest.mark.parametrize(
    ("length", "head_dim", "form"),
    [
        (1, 128, TextForm(16, True)),
        (16, 128, TextForm(16, True)),
        (17, 128, TextForm(24, True)),
        (25, 128, TextForm(32, True)),
        (33, 128, TextForm(48, True)),
        (64, 128, TextForm(64, True)),
        (65, 128, TextForm(128, False)),
        (33, 64, TextForm(48, True)),
        (49, 64, TextForm(64, False)),  # folding 64 tokens would save nothing where heads have 64 channels
        (3, 16, TextForm(64, False)),
    ],
)
def test_forms(length: int, head_dim: int, form: TextForm) -> None:
    assert TextForm.of(length, head_dim, 64) == form
