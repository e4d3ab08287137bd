"""The plan of a regular nested dissection: which cells are leaves, separators and ring, and how blocks merge.

A box of X x Y interior cells is cut into equal leaves of m_x x m_y cells, (m + 1) 2^k = X + 1 along each axis, with
one-cell separators. Merging two neighbors eliminates the separator between them; all merges of one level have the same
shape, so that a level is one batched dense operation.

The boundary of a region is kept in one canonical order, side by side around it:

    x-hi (falling y), y-lo (falling x), x-lo (rising y), y-hi (rising x)

With this order the part of either partner that survives a merge is made of at most two ranges, in the partner and in
the merged boundary alike, so that assembly is slicing and never scattering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surco.errors import InvalidInputError

IntArray = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Merge:
    """One level: pairs (P, Q) of neighbors along ``axis``, with the separator of ``separator`` cells between them.

    Attributes:
        axis: 0 = x, 1 = y.
        separator: cells eliminated in each pair.
        child: boundary length of P and Q.
        boundary: boundary length of the merged region, = 2 (child - separator) + 2.
        cut: the shared side of Q is [cut, cut + separator).
        cells: [pairs_x, pairs_y, separator], positions in the flat box; order of P's shared side.
    """

    axis: int
    separator: int
    child: int
    boundary: int
    cut: int
    cells: IntArray


@dataclass(frozen=True, slots=True)
class Plan:
    """Nested dissection of a box.

    Attributes:
        shape: (X + 2, Y + 2), the box with its ring.
        leaf: (m_x, m_y).
        leaf_cells: [c_x, c_y, m_x m_y] positions in the flat box.
        leaf_edge: [2 (m_x + m_y)] the leaf cell next to each boundary cell of a leaf, canonical order.
        merges: from the leaves up.
        ring: [R] positions in the flat box: the root's boundary in canonical order, then the 4 corners.
    """

    shape: tuple[int, int]
    leaf: tuple[int, int]
    leaf_cells: IntArray
    leaf_edge: IntArray
    merges: tuple[Merge, ...]
    ring: IntArray

    @property
    def flat_order(self) -> IntArray:
        """[cells] positions in the order leaves, separators level by level, ring."""
        parts = [self.leaf_cells.ravel(), *(merge.cells.ravel() for merge in self.merges), self.ring]
        return np.concatenate(parts)


def _leaf_choices(cells: int) -> list[tuple[int, int]]:
    """(m, k) with (m + 1) 2^k + 1 >= cells, smallest such k-box for each k."""
    choices = []
    for k in range(12):
        m = -(-(cells - 1) // 2**k) - 1
        if 2 <= m <= 7:
            choices.append((m, k))
    return choices or [(max(cells - 2, 1), 0)]


def _order(leaf: tuple[int, int], levels: tuple[int, int]) -> list[int]:
    """Merge axes from the leaves up: always grow the shorter side."""
    size, left, axes = list(leaf), list(levels), []
    while left[0] or left[1]:
        axis = 0 if left[0] and (size[0] <= size[1] or not left[1]) else 1
        size[axis] = 2 * size[axis] + 1
        left[axis] -= 1
        axes.append(axis)
    return axes


def _flops(leaf: tuple[int, int], levels: tuple[int, int]) -> float:
    """Rough real operations of one factorization, ring included; to choose among leaf sizes."""
    total = 2.0 * (leaf[0] * leaf[1]) ** 3 * 2 ** sum(levels)
    size, pairs = list(leaf), 2 ** sum(levels)
    for axis in _order(leaf, levels):
        s = size[1 - axis]
        size[axis] = 2 * size[axis] + 1
        b, pairs = 2 * sum(size), pairs // 2
        total += pairs * (0.7 * s**3 + 2 * s * s * b + 2 * s * b * b + 2e3)
    return total + 2.7 * (2 * sum(size) + 4) ** 3


def box_levels(design: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Leaf (m_x, m_y) and merge counts (k_x, k_y) of the cheapest box for a design of the given shape."""
    if min(design) < 3:
        raise InvalidInputError(f"Expected a design of at least 3x3 cells, got {design}.")
    options = [((mx, my), (kx, ky)) for mx, kx in _leaf_choices(design[0]) for my, ky in _leaf_choices(design[1])]
    return min(options, key=lambda option: _flops(*option))


def interior_shape(leaf: tuple[int, int], levels: tuple[int, int]) -> tuple[int, int]:
    """(X, Y) of the box's interior."""
    return ((leaf[0] + 1) * 2 ** levels[0] - 1, (leaf[1] + 1) * 2 ** levels[1] - 1)


def _sides(x0: int, y0: int, size: tuple[int, int]) -> list[tuple[IntArray, IntArray]]:
    """(x, y) of the boundary of the region of ``size`` at (x0, y0), canonical order."""
    x, y = x0 + np.arange(size[0]), y0 + np.arange(size[1])
    return [
        (np.full(size[1], x0 + size[0]), y[::-1]),
        (x[::-1], np.full(size[0], y0 - 1)),
        (np.full(size[1], x0 - 1), y),
        (x, np.full(size[0], y0 + size[1])),
    ]


def make_plan(leaf: tuple[int, int], levels: tuple[int, int]) -> Plan:
    """The plan of a box; positions count the ring, so the interior starts at (1, 1)."""
    interior = interior_shape(leaf, levels)
    shape = (interior[0] + 2, interior[1] + 2)
    index = np.arange(shape[0] * shape[1]).reshape(shape)
    count = [2 ** levels[0], 2 ** levels[1]]
    size = list(leaf)
    starts = [1 + np.arange(count[axis]) * (leaf[axis] + 1) for axis in (0, 1)]
    window_x = starts[0][:, None] + np.arange(leaf[0])
    window_y = starts[1][:, None] + np.arange(leaf[1])
    leaf_cells = index[window_x[:, None, :, None], window_y[None, :, None, :]].reshape(*count, -1)
    inner = np.arange(leaf[0] * leaf[1]).reshape(leaf)
    edge = np.concatenate([inner[-1, ::-1], inner[::-1, 0], inner[0, :], inner[:, -1]])
    merges = []
    for axis in _order(leaf, levels):
        separator, child = size[1 - axis], 2 * (size[0] + size[1])
        count[axis] //= 2
        step = [size[0] + 1, size[1] + 1]
        step[axis] *= 2
        x0, y0 = 1 + np.arange(count[0]) * step[0], 1 + np.arange(count[1]) * step[1]
        if axis == 0:
            x = np.broadcast_to((x0 + size[0])[:, None, None], (*count, separator))
            y = np.broadcast_to((y0[:, None] + np.arange(separator)[::-1])[None], (*count, separator))
            cut = size[1] + size[0]
        else:
            x = np.broadcast_to((x0[:, None] + np.arange(separator))[:, None, :], (*count, separator))
            y = np.broadcast_to((y0 + size[1])[None, :, None], (*count, separator))
            cut = size[1]
        size[axis] = 2 * size[axis] + 1
        merges.append(Merge(axis, separator, child, 2 * (size[0] + size[1]), cut, index[x, y]))
    border = [index[x, y] for x, y in _sides(1, 1, interior)]
    corners = index[[0, 0, -1, -1], [0, -1, 0, -1]]
    return Plan(shape, leaf, leaf_cells, edge, tuple(merges), np.concatenate([*border, corners]))
