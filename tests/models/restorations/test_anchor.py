"""An anchor whose logits resemble a token's lends its hidden state; other tokens add nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from toprovar.models.restorations.anchor import RESTORATION

from ..inputs import make_given, make_tokens

# 9 x 5: anchors in rows 0, 4, 8 and columns 0, 4
ANCHORS = (0, 4, 20, 24, 40, 44)
ORDER = torch.tensor([[*ANCHORS, *(token for token in range(45) if token not in ANCHORS)]])
X = torch.arange(45.0).view(1, 45, 1)


def directions(chosen: dict[int, float], default: float) -> Tensor:
    """Logits [1, 45, 1, 2] that point in a direction, in degrees."""
    angles = torch.full((45,), default)
    for token, angle in chosen.items():
        angles[token] = angle
    angles = torch.deg2rad(angles)
    length = 1 + torch.arange(45) % 3  # which must not matter
    return (torch.stack([angles.cos(), angles.sin()], dim=1) * length[:, None]).view(1, 45, 1, 2)


def restored(logits: Tensor, kept: int, order: Tensor = ORDER) -> tuple[list[float], list[float]]:
    given = make_given(9, 5, kept=(kept, kept)) | {"carried_logits": logits}
    restoration = RESTORATION(given)
    tokens = restoration.finish(make_tokens(given, order, X))
    return tokens.token_rows(tokens.x).flatten().tolist(), restoration.drawn(tokens).flatten().tolist()


def test_of_the_near_anchors_the_one_that_resembles_most() -> None:
    # anchors at 0, 60, 120 and so on; token 6 (row 1, column 1) is near 0, 4, 20 and 24, and far from 40 and 44
    anchors = dict(zip(ANCHORS, (0.0, 60.0, 120.0, 180.0, 240.0, 300.0), strict=True))
    for angle, expected in ((10.0, 0), (70.0, 4), (110.0, 20), (175.0, 24)):
        x, drawn = restored(directions(anchors | {6: angle}, default=240.0), len(ANCHORS))
        assert (x[6], drawn[6]) == (expected, 1)
    # what resembles a far anchor alone keeps its own stream, and adds no codes
    x, drawn = restored(directions(anchors | {6: 242.0}, default=90.0), len(ANCHORS))
    assert (x[6], drawn[6]) == (6, 0)
    assert [x[anchor] for anchor in ANCHORS] == list(ANCHORS)
    assert [drawn[anchor] for anchor in ANCHORS] == [1] * len(ANCHORS)


@pytest.mark.parametrize(("angle", "recoverable"), [(36.0, True), (37.5, False)])
def test_the_similarity_that_it_takes(angle: float, recoverable: bool) -> None:
    """The cosine of 36.87 degrees is 0.8."""
    anchors = dict.fromkeys(ANCHORS, 0.0)
    x, drawn = restored(directions(anchors, default=angle), len(ANCHORS))
    others = [token for token in range(45) if token not in ANCHORS]
    assert {drawn[token] for token in others} == {float(recoverable)}
    assert all((x[token] in ANCHORS) == recoverable for token in others)


def test_what_was_computed_stays() -> None:
    x, drawn = restored(directions({}, default=0.0), 45)
    assert x == X.flatten().tolist()
    assert drawn == [1.0] * 45
    # without logits of a scale before, nothing resembles anything
    x, drawn = restored(torch.zeros(1, 45, 1, 2), len(ANCHORS))
    assert x == X.flatten().tolist()
    assert sum(drawn) == len(ANCHORS)


def test_any_order_gives_the_same() -> None:
    logits = torch.randn(1, 45, 3, 2, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    kept = torch.randperm(45, generator=generator)[:20]
    expected = None
    for seed in range(3):
        generator.manual_seed(seed)
        rest = [token for token in range(45) if token not in kept.tolist()]
        order = torch.cat([kept[torch.randperm(20, generator=generator)], torch.tensor(rest)]).unsqueeze(0)
        result = restored(logits, 20, order)
        assert expected is None or result == expected
        expected = result


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 2), (1, 3)])
def test_grids_with_fewer_anchors_than_are_asked_for(grid: tuple[int, int]) -> None:
    tokens = grid[0] * grid[1]
    given = make_given(*grid, kept=(1,)) | {"carried_logits": torch.ones(1, tokens, 2, 2)}
    restoration = RESTORATION(given)
    order = torch.arange(tokens).expand(1, -1)
    finished = restoration.finish(make_tokens(given, order, torch.arange(float(tokens)).view(1, -1, 1)))
    assert restoration.drawn(finished).tolist() == [[1.0] * tokens]
    assert torch.isfinite(finished.x).all()
