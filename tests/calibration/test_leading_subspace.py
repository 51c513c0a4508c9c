"""Sums of leading eigenvalues by products against the eigenvalues themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toprovar.calibration import principal_components
from toprovar.calibration.leading_subspace import leading_sums
from toprovar.calibration.principal_components import LEADING_SHARE

_AT_MOST = 1e-4
"""Error of a share of the trace."""


def count_of(side: int) -> int:
    return max(1, round(LEADING_SHARE * side))


def matrix(spectrum: np.ndarray, seed: int = 0) -> Tensor:
    """A symmetric matrix with these eigenvalues, [n, n]."""
    side = len(spectrum)
    axes, _ = torch.linalg.qr(torch.from_numpy(np.random.default_rng(seed).normal(size=(side, side))))
    return (axes * torch.from_numpy(spectrum)) @ axes.T


def share(spectrum: np.ndarray) -> float:
    ordered = np.sort(spectrum)[::-1]
    return float(ordered[: count_of(len(ordered))].sum() / ordered.sum())


def spectra(side: int) -> dict[str, np.ndarray]:
    places = np.arange(1, side + 1) / side
    rng = np.random.default_rng(1)
    noise = np.linalg.svd(rng.normal(size=(2 * side, side)), compute_uv=False) ** 2 / side
    square = np.linalg.svd(rng.normal(size=(side, side)), compute_uv=False) ** 2 / side
    return {
        "noise": noise,
        "square noise": square,
        **{f"power {exponent}": places**-exponent for exponent in (0.25, 0.5, 1, 1.5, 2, 3)},
        **{f"exponential {rate}": np.exp(-rate * places) for rate in (1, 5, 20)},
        **{f"rank {rank}": (places * side <= rank) * 1.0 for rank in (1, 2, count_of(side), 2 * count_of(side))},
        "all equal": np.ones(side),
        "halves": np.where(places <= 0.5, 1, 0.99),
        "steps": np.ceil(20 * places),
        "linear": places,
        **{f"spike {size:.0e} over noise": np.where(places * side <= 1, size, noise) for size in (30, 1e3, 1e6)},
        "ten spikes": np.where(places * side <= 10, 1e3 * places, noise),
        "one alone": np.where(places * side <= 1, 1, 1e-12),
    }


@pytest.mark.parametrize("side", [33, 64, 150, 400])
def test_spectra(side: int) -> None:
    """In one batch, whose members go on for different numbers of rounds."""
    given = spectra(side)
    grams = torch.stack([matrix(one) for one in given.values()])
    sums, converged = leading_sums(grams, [count_of(side)] * len(grams))
    assert converged.all()
    shares = (sums / grams.diagonal(dim1=1, dim2=2).sum(1)).tolist()
    for (name, spectrum), found in zip(given.items(), shares, strict=True):
        assert found == pytest.approx(share(spectrum), abs=_AT_MOST), name
        assert found < share(spectrum) + 1e-12, name


@pytest.mark.parametrize("sides", [(36, 64, 144, 256), (40, 400, 576)])
def test_several_sides_as_one_batch(sides: tuple[int, ...]) -> None:
    """As a GPU takes them: each is padded with zeros, and has its own number of leading eigenvalues."""
    given = [one for side in sides for one in spectra(side).values()]
    grams = torch.zeros(len(given), max(sides), max(sides), dtype=torch.float64)
    for index, spectrum in enumerate(given):
        grams[index, : len(spectrum), : len(spectrum)] = matrix(spectrum)
    sums, converged = leading_sums(grams, [count_of(len(one)) for one in given])
    assert converged.all()
    for found, spectrum in zip(sums.tolist(), given, strict=True):
        assert found / spectrum.sum() == pytest.approx(share(spectrum), abs=_AT_MOST)


def test_a_wide_block() -> None:
    """So many that none are spare; a matrix of the size that takes a GPU long."""
    side = 700
    given = [spectra(side)[name] for name in ("noise", "power 1", "spike 1e+03 over noise")]
    grams = torch.stack([matrix(one) for one in given])
    sums, converged = leading_sums(grams, [count_of(side)] * len(grams))
    assert converged.all()
    for total, found, spectrum in zip(grams.diagonal(dim1=1, dim2=2).sum(1), sums, given, strict=True):
        assert float(found / total) == pytest.approx(share(spectrum), abs=_AT_MOST)


parts = st.one_of(
    st.tuples(st.just("power"), st.floats(0, 4)),
    st.tuples(st.just("exponential"), st.floats(0, 50)),
    st.tuples(st.just("rank"), st.floats(0.01, 1)),
    st.tuples(st.just("random"), st.floats(0.1, 8)),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(33, 160),
    st.lists(st.tuples(parts, st.floats(-5, 2)), min_size=1, max_size=3),
    st.integers(0, 99),
    st.floats(1e-12, 1e12),
)
def test_sums_of_spectra(side: int, terms: list[tuple[tuple[str, float], float]], seed: int, size: float) -> None:
    places = np.arange(1, side + 1) / side
    kinds = {
        "power": lambda value: places**-value,
        "exponential": lambda value: np.exp(-value * places),
        "rank": lambda value: (places <= max(value, 1 / side)) * 1.0,
        "random": lambda value: np.random.default_rng(seed).random(side) ** value,
    }
    spectrum = sum(10**weight * kinds[kind](value) for (kind, value), weight in terms)
    sums, converged = leading_sums(matrix(spectrum * size, seed)[None], [count_of(side)])
    if converged.item():  # else eigenvalues are taken
        assert sums.item() / (spectrum.sum() * size) == pytest.approx(share(spectrum), abs=_AT_MOST)


def test_the_same_every_time_and_nearly_whatever_else_is_in_the_batch() -> None:
    grams = torch.stack([matrix(one) for one in list(spectra(100).values())[:6]])
    together, again = (leading_sums(grams, [5] * 6)[0] for _ in range(2))
    assert together.tolist() == again.tolist()
    alone = [leading_sums(one[None], [5])[0].item() for one in grams]
    assert alone == pytest.approx(together.tolist(), rel=_AT_MOST)


def test_zeros_never_converge_and_leave_the_others_alone() -> None:
    noise = matrix(spectra(64)["noise"])
    sums, converged = leading_sums(torch.stack([torch.zeros_like(noise), noise]), [3, 3])
    assert converged.tolist() == [False, True]
    assert sums[1].item() == pytest.approx(leading_sums(noise[None], [3])[0].item(), rel=1e-6)


@pytest.mark.parametrize("failing", [[], [1], [0, 1, 2]])
def test_what_has_not_converged_is_solved(failing: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; zeros, which never converge, are not."""
    grams = torch.stack([matrix(one) for one in list(spectra(70).values())[:3]] + [torch.zeros(70, 70).double()])
    counts, solved = [4, 4, 1, 4], list[int]()
    every, eigenvalues = leading_sums, principal_components._by_eigenvalues

    def broken(grams: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        sums, converged = every(grams, counts)
        sums[failing], converged[failing] = float("nan"), False
        return sums, converged

    def counting(grams: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        solved.append(len(grams))
        return eigenvalues(grams, counts)

    expected = eigenvalues(grams, counts)
    monkeypatch.setattr(principal_components, "leading_sums", broken)
    monkeypatch.setattr(principal_components, "_by_eigenvalues", counting)
    sums, totals = principal_components._by_subspace(grams, counts)
    assert solved == ([len(failing)] if failing else [])
    assert totals.tolist() == pytest.approx(expected[1].tolist())
    assert sums.tolist() == pytest.approx(expected[0].tolist(), rel=_AT_MOST)
