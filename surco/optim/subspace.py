"""Bases of the dominant row space of a gradient, and how much of the gradient they hold.

The gradient is seen as G [N, n], its columns (the side to project) n wide. A basis P [n, r] has orthonormal columns;
the captured energy is ||G P||_F^2 / ||G||_F^2, at best the sum of the r largest eigenvalues of G'G over its trace.

Three ways, each right somewhere: the Gram matrix (exact, and the fastest for tall G), orthogonal iteration from the
old basis (squarish G, where the eigendecomposition of an n x n matrix is what costs), and the SVD as the judge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from surco.optim.dither import random_signs

GRAM_COLUMNS = 192  # up to here the eigendecomposition is cheap enough to be exact every time
GRAM_ASPECT = 16  # G taller than this many times its width: reading G dominates, the eigendecomposition is free
COLD_GRAM_COLUMNS = 2048  # up to here a first basis is exact; above, iteration from a random start


@dataclass(frozen=True, slots=True)
class Subspace:
    """A basis and what is known about the matrix it came from.

    Attributes:
        basis: P, [n, r] float32, orthonormal columns, by falling energy.
        captured: share of the squared Frobenius norm inside the subspace.
        stable_rank: ||G||_F^2 / ||G||_2^2 (an estimate from above where the basis came from iteration).
    """

    basis: Tensor
    captured: float
    stable_rank: float


def gram(matrix: Tensor) -> Tensor:
    """G'G, [n, n] float32, of a float matrix [N, n]."""
    matrix = matrix.to(torch.float32)
    return matrix.T @ matrix


def eigen_subspace(covariance: Tensor, rank: int) -> Subspace | None:
    """Best basis of a symmetric positive semidefinite ``covariance`` [n, n]; None where it is zero or not finite.

    The eigendecomposition runs in float64: float32 turns the small eigenvectors of a fast-decaying spectrum by more
    than ten degrees.
    """
    scale = float(torch.linalg.vector_norm(covariance, ord=torch.inf))
    if not 0.0 < scale < float("inf"):
        return None
    values, vectors = torch.linalg.eigh(covariance.to(torch.float64) / scale)
    values = values.clamp_min(0.0).flip(0)
    basis = vectors.flip(1)[:, :rank].to(torch.float32)
    kept, total, top = torch.stack([values[:rank].sum(), values.sum(), values[0]]).tolist()
    return Subspace(basis.contiguous(), kept / total, total / top)


def gram_subspace(matrix: Tensor, rank: int) -> Subspace | None:
    """Exact basis of G [N, n] through the smaller of its two Gram matrices; None if G is zero or not finite."""
    if matrix.shape[0] >= matrix.shape[1]:
        return eigen_subspace(gram(matrix), rank)
    left = eigen_subspace(gram(matrix.T), rank)
    if left is None:
        return None
    lifted = matrix.to(torch.float32).T @ left.basis
    return Subspace(orthonormalize(lifted), left.captured, left.stable_rank)


def svd_subspace(matrix: Tensor, rank: int, *, is_transposed: bool = False) -> Subspace | None:
    """The basis by torch.linalg.svd, as the reference implementation takes it.

    The signs of singular vectors are LAPACK's choice and differ between a matrix and its transpose: with
    ``is_transposed`` the decomposition is that of ``matrix.T``.
    """
    matrix = matrix.to(torch.float32)
    if not bool(torch.isfinite(matrix).all()) or not bool(matrix.any()):
        return None
    if is_transposed:
        columns, values, _ = torch.linalg.svd(matrix.T, full_matrices=False)
        rows = columns.T
    else:
        _, values, rows = torch.linalg.svd(matrix, full_matrices=False)
    energy = values.double().square()
    captured = float(energy[:rank].sum() / energy.sum())
    return Subspace(rows[:rank].T.contiguous(), captured, float(energy.sum() / energy[0]))


def random_subspace(matrix: Tensor, rank: int, *, seed: int) -> Subspace | None:
    """An orthonormal basis that ignores the gradient."""
    start = random_signs(matrix.shape[1], rank, seed=seed, device=matrix.device)
    basis = orthonormalize(start)
    return _measured(matrix, basis, matrix.to(torch.float32) @ basis)


def power_subspace(
    matrix: Tensor,
    start: Tensor,
    *,
    tolerance: float = 2e-4,
    max_iterations: int = 8,
) -> Subspace | None:
    """Orthogonal iteration P <- orth(G' G P) from ``start`` [n, r] until the captured energy stands still.

    The energy of an iterate is the squared norm of G P, which the optimizer needs anyway, so the stopping rule is
    free. The gains of orthogonal iteration shrink by a steady ratio; the rest of that geometric series is what is
    still missing, and the iteration stops when it is below ``tolerance`` of the energy.

    Returns:
        None where G is zero, not finite, or where the energy falls (lost orthogonality): the caller decides.
    """
    matrix = matrix.to(torch.float32)
    projected = matrix @ start
    total, energy = _energies(matrix, projected)
    if not 0.0 < total < float("inf"):
        return None
    basis, last_gain = start, float("inf")
    for _ in range(max_iterations):
        basis = orthonormalize(matrix.T @ projected)
        projected = matrix @ basis
        new_energy = float(torch.linalg.vector_norm(projected)) ** 2
        gain, energy = new_energy - energy, new_energy
        if not gain > -1e-5 * new_energy:
            return None
        ratio = min(max(gain, 0.0) / last_gain, 0.9) if last_gain > 0 else 0.0
        # The first gain has no predecessor: assume that half as much again is missing.
        missing = gain * (ratio / (1.0 - ratio) if last_gain < float("inf") else 1.0)
        if missing <= tolerance * new_energy:
            break
        last_gain = gain
    return _measured(matrix, basis, projected, total=total)


def _energies(matrix: Tensor, projected: Tensor) -> tuple[float, float]:
    norms = torch.stack([torch.linalg.vector_norm(matrix), torch.linalg.vector_norm(projected)]).tolist()
    return norms[0] ** 2, norms[1] ** 2


def _measured(matrix: Tensor, basis: Tensor, projected: Tensor, *, total: float | None = None) -> Subspace | None:
    """The subspace with its figures: sigma_1^2 from below by the longest column of G P (Ritz)."""
    if total is None:
        total = float(torch.linalg.vector_norm(matrix)) ** 2
    if not 0.0 < total < float("inf"):
        return None
    columns = projected.square().sum(dim=0)
    energy, top = torch.stack([columns.sum(), columns.max()]).tolist()
    return Subspace(basis, energy / total, total / top if top > 0 else float("inf"))


def orthonormalize(matrix: Tensor) -> Tensor:
    """Orthonormal basis [n, r] of the columns, in their order: two Cholesky passes, Householder QR where they fail.

    Cholesky QR is a few matrix products, which is what a GPU is good at; it is safe for columns that are nearly
    orthogonal, as those of a warm start are, and the diagonal of the factor says whether they were.
    """
    # A zero column cannot be scaled; Householder QR completes it with any orthonormal direction.
    norms = torch.linalg.vector_norm(matrix, dim=0)
    scaled = matrix / norms.clamp_min(torch.finfo(matrix.dtype).tiny)
    factor, info = torch.linalg.cholesky_ex(scaled.T @ scaled)
    smallest, failed = torch.stack([factor.diagonal().min(), info.to(factor.dtype)]).tolist()
    if failed != 0.0 or not smallest > 0.05:
        return torch.linalg.qr(scaled)[0]
    once = torch.linalg.solve_triangular(factor, scaled.T, upper=False)
    factor = torch.linalg.cholesky(once @ once.T)
    return torch.linalg.solve_triangular(factor, once, upper=False).T.contiguous()


def find_subspace(
    matrix: Tensor, rank: int, *, old: Tensor | None, how: str, seed: int, is_transposed: bool = False
) -> Subspace | None:
    """A basis of rank ``rank`` for G [N, n] by the way ``how`` (a value of ``Refresh``).

    Args:
        matrix: the gradient, the side to project as columns.
        rank: columns of the basis, at most min(N, n).
        old: the basis of the last refresh, [n, r], or None at the first one.
        how: "auto", "gram", "power", "svd" or "random".
        seed: of the random start or basis.
        is_transposed: G is the transpose of a gradient (matters to the signs of "svd" alone).

    Returns:
        None where the gradient is zero or not finite: keep the old basis.
    """
    if how == "svd":
        return svd_subspace(matrix, rank, is_transposed=is_transposed)
    if how == "random":
        return random_subspace(matrix, rank, seed=seed)
    short, long = sorted(matrix.shape)
    is_cheap = short <= GRAM_COLUMNS or long >= GRAM_ASPECT * short or rank * 3 > short
    if how == "gram" or (how == "auto" and is_cheap):
        return gram_subspace(matrix, rank)
    if old is None and short <= COLD_GRAM_COLUMNS:
        return gram_subspace(matrix, rank)
    if old is None:
        start = orthonormalize(random_signs(matrix.shape[1], rank, seed=seed, device=matrix.device))
        return power_subspace(matrix, start, max_iterations=24)
    return power_subspace(matrix, old)


def align_signs(basis: Tensor, old: Tensor) -> Tensor:
    """``basis`` with each column turned to the side of the old one, so that momentum is not reversed by a refresh."""
    if old.shape != basis.shape:
        return basis
    agreement = (basis * old).sum(dim=0)
    return basis * torch.where(agreement < 0, -1.0, 1.0)
