from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from toprovar.models.nano.muon import BatchedMuon

SHAPES = ((6, 6), (6, 6), (4, 10), (10, 4), (10, 4))


def matrices() -> nn.ParameterList:
    torch.manual_seed(0)
    return nn.ParameterList(torch.randn(shape) for shape in SHAPES)


def test_it_moves_as_torchs_own() -> None:
    ours, theirs = matrices(), matrices()
    own = torch.optim.Muon(list(theirs), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    batched = BatchedMuon(list(ours), lr=0.02, weight_decay=0.1)
    for step in range(4):
        for one, other in zip(ours, theirs, strict=True):
            generator = torch.Generator().manual_seed(step)
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        batched.step()
        own.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)  # both orthogonalise in bfloat16


def test_a_parameter_without_gradient_stays() -> None:
    ours = matrices()
    before = copy.deepcopy(ours)
    ours[0].grad = torch.ones_like(ours[0])
    BatchedMuon(list(ours), lr=0.02).step()
    assert not torch.equal(ours[0], before[0])
    assert all(torch.equal(one, other) for one, other in zip(ours[1:], before[1:], strict=True))


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (12, 4)])
def test_updates_have_the_promised_size(shape: tuple[int, int]) -> None:
    parameter = nn.Parameter(torch.zeros(shape))
    parameter.grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    BatchedMuon([parameter], lr=1.0).step()
    assert 0.12 < parameter.detach().square().mean().sqrt() < 0.25
