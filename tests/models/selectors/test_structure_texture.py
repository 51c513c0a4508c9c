"""High-pass magnitude and energy in the leading components."""

from __future__ import annotations

import pytest
import torch

from toprovar.models.selectors.structure_texture import SELECTOR, structure, texture

from ..inputs import make_given


def test_texture_by_hand() -> None:
    x = torch.zeros(1, 6, 1)
    x[0, 4] = 6.0  # the middle of the second row of 2 x 3
    # corners see 4 tokens, the middle column 6
    expected = [1.5, 1.0, 1.5, 1.5, 5.0, 1.5]
    torch.testing.assert_close(texture(x, 2), torch.tensor([expected]))
    both = texture(torch.cat([x, 2 * x], dim=2), 2)  # a channel more, twice as large
    torch.testing.assert_close(both, torch.tensor([expected]) * 5**0.5)


def test_a_constant_map_has_neither() -> None:
    x = torch.full((1, 12, 5), 3.0)
    assert texture(x, 3).abs().max() < 1e-6
    assert structure(x).abs().max() < 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_structure_is_the_energy_in_four_principal_components(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.tensor([27.0, 9.0, 3.0, 1.0, *[0.1] * 8])
    x = torch.randn(2, 40, 12, generator=generator) * spectrum + 1
    x = x @ torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    centred = (x - x.mean(1, keepdim=True)).double()
    leading = torch.linalg.svd(centred, full_matrices=False).Vh[:, :4]
    exact = (centred @ leading.transpose(1, 2)).square().sum(2)
    torch.testing.assert_close(structure(x).double(), exact, rtol=0.02, atol=0.5)


def test_both_ranks_count_alike() -> None:
    x = torch.randn(1, 20, 6, generator=torch.Generator().manual_seed(4))
    values = SELECTOR(4, make_given(4, 5)).at_start(x)
    ranks = [one[0].argsort().argsort() for one in (texture(x, 4), structure(x))]
    assert torch.equal(values[0], -(ranks[0] + ranks[1]).float())
    # neither the size of the stream nor its mean token matters
    other = SELECTOR(4, make_given(4, 5)).at_start(x * 100 + 7)
    assert torch.equal(values, other)
