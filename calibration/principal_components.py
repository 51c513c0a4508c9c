"""How much of a layer's variance a few directions carry: R(l, s) of the method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from toprovar.calibration.leading_subspace import leading_sums

__all__ = ["LEADING_SHARE", "centred_grams", "leading_ratio", "leading_ratios"]

LEADING_SHARE = 0.05
"""Leading components, as a share of all: a twentieth, at least one."""

_NO_VARIANCE = 1e-20
"""Variance over energy below which equal tokens differ by the rounding of their mean alone."""

_SUMS_FROM = 33
"""Sides of matrices from which a GPU takes eigenvalues one matrix after the other, and sums of some sooner."""

_THREADS_ABOVE = 256
"""Sides of matrices up to which LAPACK's eigenvalues are no faster with several threads."""


def centred_grams(hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Gram matrices of the smaller side of [B, N, C] tokens, their mean subtracted.

    Their eigenvalues are the squared singular values; an N x C decomposition is never needed.

    Returns:
        Gram matrices [B, n, n] with n = min(N, C), and energies [B]: sums of squares before the mean was subtracted.
        Both float64. An energy is finite exactly where all of its tokens are.
    """
    tokens = hidden.double()
    energies = tokens.square().sum((1, 2))
    centred = tokens - tokens.mean(1, keepdim=True)
    return centred @ centred.mT if centred.shape[1] <= centred.shape[2] else centred.mT @ centred, energies


def leading_ratios(grams: Tensor, energies: Tensor) -> Tensor:
    """Share of the leading principal components in the variance, for a batch.

    Tokens without variance, such as a single one, count as fully explained. A CPU computes all eigenvalues; a GPU, for
    larger matrices, only the leading ones' sum (`toprovar.calibration.leading_subspace`), to 1e-4 of the variance.

    Args:
        grams: [B, n, n] from `centred_grams`, all finite.
        energies: [B] likewise.

    Returns:
        float64 [B] in [0, 1].
    """
    leading = max(1, round(LEADING_SHARE * grams.shape[1]))
    if grams.is_cuda and grams.shape[1] >= _SUMS_FROM:
        sums, totals = _by_subspace(grams, leading)
    else:
        sums, totals = _by_eigenvalues(grams, leading)
    varied = totals > _NO_VARIANCE * energies
    ratios = sums / torch.where(varied, totals, 1.0)
    return torch.where(varied, ratios.clamp_max(1), 1.0)


def _by_eigenvalues(grams: Tensor, leading: int) -> tuple[Tensor, Tensor]:
    """Sums of the leading eigenvalues, and of all, [B] each."""
    with _few_threads(grams):
        eigenvalues = torch.linalg.eigvalsh(grams).clamp_min(0)
    return eigenvalues[:, -leading:].sum(1), eigenvalues.sum(1)


def _by_subspace(grams: Tensor, leading: int) -> tuple[Tensor, Tensor]:
    """The same without eigenvalues; with them where that does not converge."""
    totals = grams.diagonal(dim1=1, dim2=2).sum(1)
    sums, converged = leading_sums(grams, leading)
    rest = torch.nonzero(~converged & (totals > 0))[:, 0]
    if len(rest):
        sums[rest] = _by_eigenvalues(grams[rest], leading)[0]
    return sums, totals


@contextlib.contextmanager
def _few_threads(grams: Tensor) -> Iterator[None]:
    """One thread for small matrices on the CPU.

    More gain nothing there, and on a busy machine they wait for one another: 12 s instead of 0.1 s were seen.
    """
    threads = torch.get_num_threads()
    if grams.is_cuda or grams.shape[-1] > _THREADS_ABOVE or threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def leading_ratio(hidden: Tensor) -> float:
    """The same of one layer's [N, C] tokens."""
    return leading_ratios(*centred_grams(hidden[None])).item()
