"""What every restoration must do, whatever its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from toprovar.extensions import RESTORATIONS
from toprovar.models.infinity import Infinity
from toprovar.models.step import ScaleStep
from toprovar.pruning import Pruning

Generate = Callable[..., Any]
DEPTH = 4


def identity(tokens: int) -> torch.Tensor:
    return torch.arange(tokens).expand(1, -1)


@pytest.fixture(scope="module")
def text() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, 12, generator=torch.Generator().manual_seed(8)), torch.ones(2, 3)


@pytest.fixture(params=RESTORATIONS.names())
def step(request: pytest.FixtureRequest, backbone: Infinity) -> ScaleStep:
    return ScaleStep(backbone, False, (DEPTH,), Pruning("random", restoration=request.param), adaptive=True)


def test_with_everything_kept_the_step_is_the_dense_one(
    step: ScaleStep, backbone: Infinity, text: tuple[torch.Tensor, ...], generate: Generate
) -> None:
    expected = generate(ScaleStep(backbone, False, (DEPTH,)), *text, guidance=3.0)
    actual = generate(step, *text, guidance=3.0, order=identity)
    for one, other in zip(actual.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=3e-5)
    for one, other in zip(actual.scales, expected.scales, strict=True):
        assert torch.equal(one["bits"], other["bits"])
        torch.testing.assert_close(one["next_summed"], other["next_summed"])


@pytest.mark.parametrize("kept", [1, 2, 0])
def test_few_tokens_or_none(kept: int, step: ScaleStep, text: tuple[torch.Tensor, ...], generate: Generate) -> None:
    def counts(scale: int, tokens: int) -> list[int]:
        return [min(kept, tokens)] * DEPTH if scale > 1 else [tokens] * DEPTH

    result = generate(step, *text, guidance=3.0, order=identity, kept=counts)
    for outputs in result.scales:
        assert all(torch.isfinite(value).all() for value in outputs.values())
