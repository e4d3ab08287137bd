"""Exact elimination of everything outside the design box: a multifrontal Schur complement on the grid.

The exterior of the box never changes while a device is designed. With F the source and monitor columns, the bordered
matrix [[A, F], [F', 0]] is reduced once a wavelength to

    [[K, F_R], [F_R', D]]          on the ring of cells around the box's interior,

after which every S-parameter follows from (K + box(design)) alone. Nested dissection over rectangles; the two lines
where the grid wraps around are eliminated last.

Source: A. George, SIAM J. Numer. Anal. 10, 345 (1973); Schur-complement design regions: N. Zhao, S. Boutami and S. Fan,
Opt. Express 27, 20711 (2019).
"""

from __future__ import annotations

import numpy as np
import scipy.linalg as sl
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from problems.photonics.operators import ComplexArray, Stencil

IntArray = NDArray[np.intp]
_LEAF_CELLS = 160


class _Fronts:
    """State of one elimination: matrix entries, which cells are eliminated, and scratch for local indices."""

    def __init__(
        self, diagonal: ComplexArray, parts: Stencil, kept: IntArray, dropped: NDArray[np.bool_], border: ComplexArray
    ):
        self.nx, self.ny = diagonal.shape
        self.cells = self.nx * self.ny
        self.diagonal = diagonal.ravel()
        self.link_x, self.link_y = parts.link_x.ravel(), parts.link_y.ravel()
        self.border = border
        active = ~dropped.ravel()
        active[kept] = False
        self.active = active.reshape(self.nx, self.ny)
        self.is_kept = np.zeros(self.cells, bool)
        self.is_kept[kept] = True
        self.is_done = np.zeros(self.cells, bool)
        self.local = np.full(self.cells + border.shape[1], -1, dtype=np.intp)
        self.index = np.arange(self.cells).reshape(self.nx, self.ny)

    def links(self, cells: IntArray) -> list[tuple[IntArray, ComplexArray]]:
        """Neighbor ids and matrix entries of ``cells``, one pair for each of the four sides."""
        i, j = np.divmod(cells, self.ny)
        left, right = (i - 1) % self.nx * self.ny + j, (i + 1) % self.nx * self.ny + j
        down, up = i * self.ny + (j - 1) % self.ny, i * self.ny + (j + 1) % self.ny
        return [
            (left, -self.link_x[cells]),
            (right, -self.link_x[right]),
            (down, -self.link_y[cells]),
            (up, -self.link_y[up]),
        ]

    def eliminate(
        self, cells: IntArray, children: list[tuple[IntArray, ComplexArray]]
    ) -> tuple[IntArray, ComplexArray]:
        """Eliminate ``cells`` after their ``children``; returns the ids that remain and their Schur complement."""
        links = self.links(cells)
        outside = [neighbor[~self.is_done[neighbor]] for neighbor, _ in links]
        columns = np.flatnonzero(np.any(self.border[cells] != 0, axis=0)) + self.cells
        everything = np.unique(np.concatenate([cells, *outside, columns, *(ids for ids, _ in children)]))
        self.local[cells] = -2
        rest = everything[self.local[everything] != -2]
        order = np.concatenate([cells, rest])
        self.local[order] = np.arange(len(order))
        own = np.arange(len(cells))
        front = np.zeros((len(order), len(order)), complex)
        for ids, schur in children:
            at = self.local[ids]
            front[np.ix_(at, at)] += schur
        front[own, own] += self.diagonal[cells]
        for neighbor, value in links:
            use = ~self.is_done[neighbor]
            at = self.local[neighbor[use]]
            front[own[use], at] += value[use]
            later = at >= len(cells)
            front[at[later], own[use][later]] += value[use][later]
        for column in columns:
            at, value = self.local[column], self.border[cells, column - self.cells]
            front[own, at] += value
            front[at, own] += value
        self.is_done[cells] = True
        self.local[order] = -1
        count = len(cells)
        inner, side = front[:count, :count], front[:count, count:]
        factor = sl.lu_factor(inner, check_finite=False)
        schur = front[count:, count:] - front[count:, :count] @ sl.lu_solve(factor, side, check_finite=False)
        return rest, schur

    def rectangle(self, i0: int, i1: int, j0: int, j1: int) -> tuple[IntArray, ComplexArray] | None:
        """Eliminate all active cells of [i0, i1) x [j0, j1)."""
        inside = self.active[i0:i1, j0:j1]
        count = int(inside.sum())
        if count == 0:
            return None
        if count <= _LEAF_CELLS or max(i1 - i0, j1 - j0) <= 3:
            return self.eliminate(self.index[i0:i1, j0:j1][inside], [])
        if i1 - i0 >= j1 - j0:
            cut = (i0 + i1) // 2
            halves = ((i0, cut, j0, j1), (cut + 1, i1, j0, j1))
            line = (slice(cut, cut + 1), slice(j0, j1))
        else:
            cut = (j0 + j1) // 2
            halves = ((i0, i1, j0, cut), (i0, i1, cut + 1, j1))
            line = (slice(i0, i1), slice(cut, cut + 1))
        children = [child for child in (self.rectangle(*half) for half in halves) if child is not None]
        separator = self.index[line][self.active[line]]
        if len(separator) == 0:
            return self.join(children)
        return self.eliminate(separator, children)

    @staticmethod
    def join(children: list[tuple[IntArray, ComplexArray]]) -> tuple[IntArray, ComplexArray]:
        """Add up Schur complements without eliminating anything."""
        ids = np.unique(np.concatenate([own for own, _ in children]))
        total = np.zeros((len(ids), len(ids)), complex)
        for own, schur in children:
            at = np.searchsorted(ids, own)
            total[np.ix_(at, at)] += schur
        return ids, total


def condense(
    parts: Stencil,
    diagonal: ComplexArray,
    ring: IntArray,
    interior: NDArray[np.bool_],
    border: ComplexArray,
) -> ComplexArray:
    """Reduce the bordered matrix to the ring.

    Args:
        parts: stencil of the domain.
        diagonal: [Nx, Ny] complex, A[p, p]; on the ring whatever the caller wants to keep in K.
        ring: [R] flat ids of the ring cells, in the order wanted.
        interior: [Nx, Ny] bool, cells inside the ring, which are left out.
        border: [N, m] complex, source and monitor columns; zero on the interior.

    Returns:
        [R + m, R + m] complex symmetric: [[K, F_R], [F_R', D]]. Couplings of the ring to the interior are not in K.
    """
    fronts = _Fronts(diagonal, parts, ring, interior, border)
    count, width = len(ring), border.shape[1]
    seam = np.concatenate([fronts.index[0, :], fronts.index[1:, 0]])
    with threadpool_limits(1, user_api="blas"):  # many small fronts: BLAS threads only wait for each other
        children = [fronts.rectangle(1, fronts.nx, 1, fronts.ny)]
        ids, schur = fronts.eliminate(seam, [child for child in children if child is not None])
    position = np.full(fronts.cells + width, -1, dtype=np.intp)
    position[ring] = np.arange(count)
    position[fronts.cells :] = count + np.arange(width)
    reduced = np.zeros((count + width, count + width), complex)
    at = position[ids]
    reduced[np.ix_(at, at)] += schur
    own = np.arange(count)
    reduced[own, own] += fronts.diagonal[ring]
    for neighbor, value in fronts.links(ring):
        use = fronts.is_kept[neighbor]
        reduced[own[use], position[neighbor[use]]] += value[use]
    reduced[:count, count:] += border[ring]
    reduced[count:, :count] += border[ring].T
    return np.asarray((reduced + reduced.T) / 2, dtype=np.complex128)
