"""How much of a layer's variance a few directions carry: R(l, s) of the method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from toprovar.calibration.leading_subspace import leading_sums

__all__ = ["LEADING_SHARE", "centred_grams", "leading_ratio", "leading_ratios", "leading_ratios_of"]

LEADING_SHARE = 0.05
"""Leading components, as a share of all: a twentieth, at least one."""

_NO_VARIANCE = 1e-20
"""Variance over energy below which equal tokens differ by the rounding of their mean alone."""

_SUMS_FROM = 33
"""Sides of matrices from which a GPU takes eigenvalues one matrix after the other, and sums of some sooner."""

TOGETHER_TO = 576
"""Sides up to which a GPU's time goes by calls, so that matrices of several are made one batch."""

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
    return _ratios(grams, energies, [_leading(grams.shape[1])] * len(grams))


def leading_ratios_of(batches: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The same for batches of any sides, each of Gram matrices and energies: a GPU takes small ones together."""
    together = [index for index, (grams, _) in enumerate(batches) if _are_small(grams)]
    found = {index: leading_ratios(*batch) for index, batch in enumerate(batches) if index not in together}
    if together:
        grams, energies = zip(*(batches[index] for index in together), strict=True)
        side = max(one.shape[1] for one in grams)
        # Rows and columns of zeros add eigenvalues of zero, which are never leading ones.
        padded = torch.cat([pad(one, (0, side - one.shape[1]) * 2) for one in grams])
        counts = [_leading(one.shape[1]) for one in grams for _ in one]
        ratios = _ratios(padded, torch.cat(energies), counts).split([len(one) for one in grams])
        found.update(zip(together, ratios, strict=True))
    return [found[index] for index in range(len(batches))]


def _leading(side: int) -> int:
    return max(1, round(LEADING_SHARE * side))


def _are_small(grams: Tensor) -> bool:
    return grams.is_cuda and _SUMS_FROM <= grams.shape[1] <= TOGETHER_TO


def _ratios(grams: Tensor, energies: Tensor, counts: Sequence[int]) -> Tensor:
    by_sums = grams.is_cuda and grams.shape[1] >= _SUMS_FROM
    sums, totals = (_by_subspace if by_sums else _by_eigenvalues)(grams, counts)
    varied = totals > _NO_VARIANCE * energies
    ratios = sums / torch.where(varied, totals, 1.0)
    return torch.where(varied, ratios.clamp_max(1), 1.0)


def _by_eigenvalues(grams: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Sums of the leading eigenvalues, so many of each matrix, and of all, [B] each."""
    with _few_threads(grams):
        eigenvalues = torch.linalg.eigvalsh(grams).clamp_min(0)
    side = grams.shape[1]
    counted = torch.arange(side) >= side - torch.tensor(counts)[:, None]
    return eigenvalues.mul(counted.to(grams.device)).sum(1), eigenvalues.sum(1)


def _by_subspace(grams: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The same without eigenvalues; with them where that does not converge."""
    totals = grams.diagonal(dim1=1, dim2=2).sum(1)
    sums, converged = leading_sums(grams, counts)
    rest = torch.nonzero(~converged & (totals > 0))[:, 0]
    if len(rest):
        sums[rest] = _by_eigenvalues(grams[rest], [counts[index] for index in rest.tolist()])[0]
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
