"""What every selector must do, whatever its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from toprovar.extensions import SELECTORS
from toprovar.models.infinity import Infinity
from toprovar.models.step import ScaleStep
from toprovar.pruning import Pruning

Generate = Callable[..., Any]
DEPTH = 4


def identity(tokens: int) -> torch.Tensor:
    return torch.arange(tokens).expand(1, -1)


def half(_: int, tokens: int) -> Sequence[int]:
    return [tokens, (tokens + 1) // 2, tokens // 2, (tokens + 1) // 2] if tokens > 1 else [1] * DEPTH


@pytest.fixture(scope="module")
def text() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    return torch.randn(4, 3, 12, generator=generator), torch.ones(4, 3)


@pytest.fixture(params=SELECTORS.names())
def step(request: pytest.FixtureRequest, backbone: Infinity) -> ScaleStep:
    return ScaleStep(backbone, False, (DEPTH,), Pruning(request.param, (1, 3)), adaptive=True)


def test_with_everything_kept_the_step_is_the_dense_one(
    step: ScaleStep, backbone: Infinity, text: tuple[torch.Tensor, ...], generate: Generate
) -> None:
    rows = [part[[0, 2]] for part in text]
    expected = generate(ScaleStep(backbone, False, (DEPTH,)), *rows, guidance=3.0)
    actual = generate(step, *rows, guidance=3.0, order=identity)
    for one, other in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=3e-5)


def test_an_images_order_does_not_depend_on_its_batch(
    step: ScaleStep, text: tuple[torch.Tensor, ...], generate: Generate
) -> None:
    options = {"guidance": 2.0, "kept": half}
    both = generate(step, *text, images=2, seeds=(1, 2), order=lambda n: torch.arange(n).expand(2, -1), **options)
    for image in range(2):
        rows = [part[[image, image + 2]] for part in text]
        alone = generate(step, *rows, seeds=(image + 1,), order=identity, **options)
        for one, other in zip(alone.scales, both.scales, strict=True):
            assert torch.equal(one["bits"][0], other["bits"][image])
            torch.testing.assert_close(one["next_prior"][0], other["next_prior"][image], rtol=1e-4, atol=1e-4)


def test_everything_stays_finite_and_fewer_tokens_change_the_result(
    step: ScaleStep, text: tuple[torch.Tensor, ...], generate: Generate
) -> None:
    rows = [part[[0, 2]] for part in text]
    result = generate(step, *rows, guidance=2.0, order=identity, kept=half)
    for outputs in result.scales:
        assert all(torch.isfinite(value).all() for value in outputs.values())
    whole = generate(step, *rows, guidance=2.0, order=identity)
    assert not torch.equal(result.logits[-1], whole.logits[-1])
