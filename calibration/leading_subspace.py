"""Sums of leading eigenvalues of many matrices at once, by products: eigenvalues come one matrix after the other."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["leading_sums"]

_ENOUGH = 3e-6
"""Share of the trace that a round must add for another to follow."""

_LEAST, _MOST = 3, 24
"""Rounds. The first ones tell little: a filter may have hardly begun to part eigenvalues that are close."""

_DEGREE = 16
"""Of a filter, at most."""

_AMPLIFIED = 1e12
"""How much more than another wanted direction one may be amplified by a filter; the columns' condition, at worst."""

_SHIFT = 1e-13
"""Added to the first Gram matrix of unit columns, for each of them, so that its Cholesky factor exists."""

_FLOOR = 1e-3
"""Added to the diagonal, as a share of the mean eigenvalue, so that Cholesky's factors exist.

Eigenvectors stay; eigenvalues below it are hardly told apart, and a twentieth of them is 5e-5 of the trace at most.
"""

_SPARE, _SMALL = 8, 32
"""Columns beyond the wanted ones, as far as all of them are no more than what a GPU takes eigenvalues of in one batch.

A random start nearly misses one of a few directions now and then; with spare columns it does not.
"""

_SQUARINGS = 6


def leading_sums(grams: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The sum of the largest eigenvalues of every matrix, so many of each.

    Block subspace iteration: an orthonormal Q [n, k] is multiplied by a polynomial of G and orthonormalised, until the
    trace of Q^T G Q, or of its leading part, no longer grows. That is never above the sum, and its error is of the
    second order in Q's. The polynomial is Chebyshev's over the interval from 0 to the smallest eigenvalue of Q^T G Q,
    which is never above the last wanted one: within it values stay small, and beyond it larger ones grow faster. A flat
    spectrum, which would take hundreds of rounds without, takes some five of up to 16 products.

    Sources: the filter, Zhou, Saad, Tiago and Chelikowsky, "Self-consistent-field calculations using
    Chebyshev-filtered subspace iteration", J. Comput. Phys. 219 (2006), 172-184; three Cholesky factors in the place of
    QR, Fukaya, Kannan, Nakatsukasa, Yamamoto and Yanagisawa, "Shifted Cholesky QR for computing the QR factorization of
    ill-conditioned matrices", SIAM J. Sci. Comput. 42 (2020), A477-A503.

    Args:
        grams: symmetric, positive semidefinite, finite, float64 [B, n, n].
        counts: [B], of eigenvalues, at most n.

    Returns:
        Sums, float64 [B], and bool [B]: whether each has converged. A matrix of zeros never does.
    """
    side = grams.shape[1]
    totals = _trace(grams)
    floor = (_FLOOR / side * totals)[:, None, None]
    most = max(counts)
    columns = max(most, min(most + _SPARE, _SMALL, side))
    all_count = min(counts) == columns
    left_out = columns - torch.tensor(counts, device=grams.device)[:, None]
    counted = torch.arange(columns, device=grams.device) >= left_out
    lowest = floor * torch.eye(columns, dtype=grams.dtype, device=grams.device)
    basis, sound = _orthonormal(_start(side, columns).to(grams.device).expand(len(grams), -1, -1))
    sums, settled = torch.zeros_like(totals), torch.zeros_like(totals, dtype=torch.bool)
    for index in range(_MOST):
        product = grams @ basis
        # Eigenvalues are asked for even of what has gone wrong, which is counted out by `sound`.
        inner = torch.where(sound[:, None, None], basis.mT @ product, 0.0)
        reached = _trace(inner) if all_count else torch.linalg.eigvalsh(inner).mul(counted).sum(1)
        still = (reached > (1 - _ENOUGH) * totals) | ((reached - sums < _ENOUGH * totals) & (index >= _LEAST))
        # What has settled stays, whatever becomes of its columns while others go on.
        sums = torch.where(settled, sums, reached)
        settled = settled | (sound & still)
        low, high = _extremes(inner + lowest)
        amplified = math.acosh(_AMPLIFIED) / torch.acosh(2 * high / low - 1)
        # The smallest eigenvalue of a random start is far below the last wanted one, and a filter by it tells little.
        degrees = amplified.nan_to_num(1.0).clamp(1, _DEGREE if index else 2).floor()
        degrees = torch.where(settled, 1.0, degrees)
        # The one wait for the device in a round.
        done, least, most = torch.stack([(settled | ~sound).all().double(), *degrees.aminmax()]).tolist()
        if done:
            break
        filtered = _filtered(grams, basis, product, floor, low, degrees, range(int(least), int(most) + 1))
        basis, orthonormal = _orthonormal(filtered)
        sound = sound & orthonormal
    return sums, settled


def _filtered(
    grams: Tensor, basis: Tensor, product: Tensor, floor: Tensor, low: Tensor, degrees: Tensor, bounds: range
) -> Tensor:
    """T_d((2 / low) (G + floor) - 1) times the basis, of a degree d within `bounds` for each matrix.

    Args:
        grams: G.
        basis: [B, n, k].
        product: G times the basis.
        floor: [B, 1, 1].
        low: [B].
        degrees: [B].
        bounds: from the lowest to the highest degree.
    """
    factor = (2 / low)[:, None, None]
    before, now = basis, factor * (product + floor * basis) - basis
    # Twice what a degree multiplies by, whose products are one call a degree.
    twice = 2 * factor * grams
    twice.diagonal(dim1=1, dim2=2).add_((2 * factor * floor - 2)[:, 0])
    for degree in range(2, bounds[-1] + 1):
        following = torch.baddbmm(before, twice, now, beta=-1)
        if degree <= bounds[0]:
            before, now = now, following
        else:
            goes_on = (degrees >= degree)[:, None, None]
            before, now = torch.where(goes_on, now, before), torch.where(goes_on, following, now)
    return now


def _orthonormal(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Columns [B, n, k] made orthonormal, and whether each matrix's are."""
    count = columns.shape[2]
    identity = torch.eye(count, dtype=columns.dtype, device=columns.device)
    unit = columns / columns.norm(dim=1, keepdim=True)
    first = unit @ _inverse_factor(unit.mT @ unit + _SHIFT * count * identity).mT
    second = first @ _inverse_factor(first.mT @ first).mT
    gram = second.mT @ second
    # The last factor repairs what was left, if that was little; a factor that broke off leaves a lot.
    return second @ _inverse_factor(gram).mT, (gram - identity).abs().amax((1, 2)) < 0.1


def _inverse_factor(matrices: Tensor) -> Tensor:
    """L^-1 of matrices L L^T; anything where there is no such L."""
    factor, _ = torch.linalg.cholesky_ex(matrices)
    identity = torch.eye(matrices.shape[1], dtype=matrices.dtype, device=matrices.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(matrices), upper=False)


def _extremes(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """A lower bound of the smallest eigenvalue and an upper one of the largest, [B] each, within some per cent.

    The trace of A^m is at least the largest eigenvalue to the power of m, and at most n times as much.
    """
    inverse = _inverse_factor(matrices)
    power = torch.cat([inverse.mT @ inverse, matrices])
    scales = []
    for index in range(_SQUARINGS + 1):
        power = power @ power if index else power
        scales.append(_trace(power))
        power = power / scales[-1][:, None, None]
    exponents = torch.exp2(-torch.arange(len(scales), dtype=power.dtype, device=power.device))
    largest_inverse, largest = (torch.stack(scales, 1).log() @ exponents).exp().chunk(2)
    return 1 / largest_inverse, largest


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2).sum(1)


@functools.lru_cache(64)
def _start(side: int, columns: int) -> Tensor:
    """The same random columns [1, side, columns] every time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, side, columns, dtype=torch.float64, generator=generator)
