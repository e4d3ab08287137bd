"""Bases of the dominant row space of a gradient, and how much of the gradient they hold.

The gradient is seen as G [N, n], its columns (the side to project) n wide. A basis P [n, r] has orthonormal columns;
the captured energy is ||G P||_F^2 / ||G||_F^2, at best the sum of the r largest eigenvalues of G'G over its trace.

Three ways, each right somewhere: the Gram matrix (exact, and the fastest for tall G), filtered orthogonal iteration
from the old basis (large squarish G, where the eigendecomposition of an n x n matrix is what costs), and the SVD as
the judge.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from surco.optim.dither import random_signs

GRAM_COLUMNS = 512  # up to here the eigendecomposition is cheap enough to be exact every time
HOST_EIGEN_COLUMNS = 192
GRAM_ASPECT = 64  # G taller than this many times its width: reading G dominates, the eigendecomposition is free


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
    """G'G, [n, n] float32, of a float matrix [N, n].

    In float32 the vectors of two close singular values turn within their plane, by about 1e-7 over the relative gap of
    the squares, as they do in a float32 SVD; the subspace and its energy do not suffer. float64 would cost three times
    as much.
    """
    matrix = matrix.to(torch.float32)
    return matrix.T @ matrix


def eigen_subspace(covariance: Tensor, rank: int) -> Subspace | None:
    """Best basis of a symmetric positive semidefinite ``covariance`` [n, n]; None where it is zero or not finite.

    The eigendecomposition runs in float64: float32 turns the small eigenvectors of a fast-decaying spectrum by more
    than ten degrees.
    """
    found = eigen_decomposition(covariance)
    if found is None:
        return None
    values, vectors = found
    kept, total, top = torch.stack([values[:rank].sum(), values.sum(), values[0]]).tolist()
    return Subspace(vectors[:, :rank].contiguous(), kept / total, total / top)


def eigen_decomposition(covariance: Tensor) -> tuple[Tensor, Tensor] | None:
    """Falling eigenvalues [n] float64 (up to a factor) and eigenvectors [n, n] float32; None if zero or not finite.

    Small matrices go to the CPU: LAPACK is done before a GPU has launched the many small kernels of its solver.
    """
    device = covariance.device
    is_small = covariance.shape[0] <= HOST_EIGEN_COLUMNS
    with _one_thread() if is_small else contextlib.nullcontext():
        matrix = covariance.to(device="cpu" if is_small else device, dtype=torch.float64)
        scale = float(torch.linalg.vector_norm(matrix, ord=torch.inf))
        if not 0.0 < scale < float("inf"):
            return None
        values, vectors = torch.linalg.eigh(matrix / scale)
    values, vectors = values.clamp_min_(0.0).flip(0), vectors.flip(1)
    return values.to(device), vectors.to(device=device, dtype=torch.float32)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for a small decomposition, which gains nothing from more and waits for those that other work holds.

    Beside busy cores (data loaders, other runs) 32 threads took 160 ms for 128 columns, and one takes 2 to 3 ms.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
    matrix: Tensor, rank: int, start: Tensor | None, *, seed: int = 0, tolerance: float = 1e-3, max_rounds: int = 6
) -> Subspace | None:
    """Orthogonal iteration on G'G, filtered by Chebyshev polynomials, from an old basis or from a random sketch.

    A round applies to the block B [n, r + p] the polynomial of G'G that grows fastest above the smallest Ritz value,
    then orthonormalizes and takes Ritz vectors. A plain power step would need hundreds of rounds on a flat spectrum;
    the filter gains a square root. Ritz pairs far above the cut converge by themselves and would drown the rest
    in float32: they are held out of the filter. The p extra columns start as a sketch of G, so that a direction that
    is orthogonal to the old basis is not overlooked.

    Args:
        matrix: G, [N, n].
        rank: columns of the basis.
        start: old basis [n, r], or None.
        seed: of the sketch.
        tolerance: stop when a round adds less than this share of the energy; the rest is at most about as much.
        max_rounds: at most so many.

    Returns:
        None where G is zero or not finite.

    Source: Zhou and Saad, block Chebyshev-Davidson (2007); for the sketch Halko, Martinsson, Tropp (arXiv 0909.4061).
    """
    matrix = matrix.to(torch.float32)
    total = float(torch.linalg.vector_norm(matrix)) ** 2
    if not 0.0 < total < float("inf"):
        return None
    width = min(rank + max(8, rank // 8), *matrix.shape)
    missing = width if start is None else width - start.shape[1]
    block = matrix.T @ random_signs(matrix.shape[0], max(missing, 1), seed=seed, device=matrix.device)
    block = orthonormalize(block if start is None else torch.cat([start, block], dim=1)[:, :width])
    projected = matrix @ block
    ritz = projected.square().sum(dim=0).sort(descending=True).values
    energy = float(ritz[:rank].sum())
    for count in range(max_rounds):
        block = orthonormalize(_filtered(matrix, block, projected, ritz.tolist(), rank))
        projected = matrix @ block
        found = eigen_decomposition(projected.T @ projected)
        if found is None:
            return None
        block, projected = block @ found[1], projected @ found[1]
        ritz = projected.square().sum(dim=0)
        last, energy = energy, float(ritz[:rank].sum())
        # A random start can gain little in its first round and still lack a thousandth: it gets a second.
        if energy - last <= tolerance * energy and (start is not None or count > 0):
            break
    top = float(ritz[0])
    return Subspace(block[:, :rank].contiguous(), energy / total, total / top if top > 0 else float("inf"))


_HEAD_RATIO = 4.0  # Ritz values this many times above the cut converge without the filter
_SPREAD = 2e4  # growth of the filter over the filtered columns: float32 keeps the smallest of them
_MAX_DEGREE = 10


def _filtered(matrix: Tensor, block: Tensor, projected: Tensor, ritz: list[float], rank: int) -> Tensor:
    """One application of the filter to ``block`` [n, w], whose Ritz values fall; ``projected`` is G ``block``."""
    image = matrix.T @ projected  # G'G B
    cut = ritz[min(rank, len(ritz) - 1)]
    if cut <= 1e-6 * ritz[0]:
        return image  # fewer directions than columns: a power step finds them all
    head = sum(value > _HEAD_RATIO * cut for value in ritz)
    growth = math.acosh(max(2.0 * ritz[head] / cut - 1.0, 1.0 + 1e-6))
    degree = min(max(int(math.log(2.0 * _SPREAD) / growth), 1), _MAX_DEGREE)
    held, previous = block[:, :head], block[:, head:]
    current = image[:, head:] * (2.0 / cut) - previous
    for _ in range(degree - 1):
        applied = matrix.T @ (matrix @ current)
        applied -= held @ (held.T @ applied)
        current, previous = applied.mul_(4.0 / cut).sub_(current, alpha=2.0).sub_(previous), current
    return torch.cat([image[:, :head], current], dim=1)


def _measured(matrix: Tensor, basis: Tensor, projected: Tensor) -> Subspace | None:
    """The subspace with its figures: sigma_1^2 from below by the longest column of G P."""
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
        return torch.linalg.qr(scaled)[0].contiguous()
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
    is_exact_cheap = short <= GRAM_COLUMNS or long >= GRAM_ASPECT * short or rank * 3 > short
    if how == "gram" or (how == "auto" and is_exact_cheap):
        return gram_subspace(matrix, rank)
    return power_subspace(matrix, rank, old, seed=seed)


def align_signs(basis: Tensor, old: Tensor) -> Tensor:
    """``basis`` with each column turned to the side of the old one, so that momentum is not reversed by a refresh."""
    if old.shape != basis.shape:
        return basis
    agreement = (basis * old).sum(dim=0)
    return basis * torch.where(agreement < 0, -1.0, 1.0)
