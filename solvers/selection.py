"""Selection oracles: the k cheapest of n elements, and the cheapest few of each group. Vectorized over the batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from solvers.oracle import Array, OracleBatch
from solvers.points import as_points, not_binary, settle
from solvers.rows import solve_together


def cardinality(n: int, k: int, *, at_most: bool = False) -> CardinalityOracle:
    """Oracle over 0/1 vectors of n elements with exactly (or at most) ``k`` ones.

    Examples:
        >>> import numpy as np
        >>> cardinality(4, 2).solve(np.array([[3.0, -1.0, 2.0, 5.0]])).x.tolist()
        [[0.0, 1.0, 1.0, 0.0]]
        >>> cardinality(4, 2, at_most=True).solve(np.array([[3.0, -1.0, 2.0, 5.0]])).x.tolist()
        [[0.0, 1.0, 0.0, 0.0]]
    """
    return CardinalityOracle(n, k, at_most=at_most)


class CardinalityOracle:
    """{ x in {0,1}^n : sum x = k }, or <= k with ``at_most``.

    Of equal costs the lower index is taken; with ``at_most`` an element of cost zero stays out.
    """

    def __init__(self, n: int, k: int, *, at_most: bool = False) -> None:
        if not 0 <= k <= n:
            raise ValueError(f"Expected 0 <= k <= n, got k = {k} and n = {n}.")
        self._n, self._k, self._at_most = int(n), int(k), at_most

    @property
    def n(self) -> int:
        """Number of elements."""
        return self._n

    def solve(self, costs: Array) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]."""
        return solve_together(costs, self._n, self._solve)

    def violation(self, x: Array) -> Array:
        """Distance of the sum from the rule, or of an entry from {0, 1}, whichever is larger; [..., n] -> [...]."""
        points, finite = as_points(x, self._n)
        excess = points.sum(axis=-1) - self._k
        return settle(finite, not_binary(points), np.maximum(excess, 0.0) if self._at_most else np.abs(excess))

    def _solve(self, costs: Array) -> Array:
        batch = len(costs)
        x = np.zeros((batch, self._n))
        if self._k == 0 or batch == 0:
            return x
        if self._k == self._n:
            chosen = np.ones((batch, self._n), bool)
        else:
            # The k-th smallest value splits a row; of the elements equal to it the first ones are taken.
            edge = np.partition(costs, self._k - 1, axis=1)[:, self._k - 1, None]
            below = costs < edge
            equal = costs == edge
            room = self._k - below.sum(axis=1, keepdims=True)
            chosen = below | (equal & (equal.cumsum(axis=1) <= room))
        if self._at_most:
            chosen &= costs < 0
        x[chosen] = 1.0
        return x


def partition_matroid(groups: object, capacities: object, *, at_most: bool = False) -> PartitionMatroidOracle:
    """Oracle over 0/1 vectors with exactly (or at most) ``capacities[g]`` ones in each group g.

    Args:
        groups: [n] integers, the group of each element, 0 to G - 1.
        capacities: [G] integers, or one for all groups.
        at_most: whether a group may hold fewer.

    Examples:
        >>> import numpy as np
        >>> oracle = partition_matroid([0, 0, 1, 1, 1], [1, 2])
        >>> oracle.solve(np.array([[2.0, 1.0, 5.0, 3.0, 4.0]])).x.tolist()
        [[0.0, 1.0, 0.0, 1.0, 1.0]]
    """
    return PartitionMatroidOracle(groups, capacities, at_most=at_most)


class PartitionMatroidOracle:
    """{ x in {0,1}^n : sum of x over group g = capacity g }, or <= with ``at_most``.

    Of equal costs the lower index is taken; with ``at_most`` an element of cost zero stays out.
    """

    def __init__(self, groups: object, capacities: object, *, at_most: bool = False) -> None:
        labels = np.asarray(groups)
        if labels.ndim != 1 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
            raise ValueError("Expected `groups` as a non-empty [n] array of integers >= 0.")
        sizes = np.bincount(labels)
        limits = np.asarray(capacities)
        if limits.ndim == 0:
            limits = np.full(len(sizes), limits)
        if limits.ndim != 1 or len(limits) < len(sizes):
            raise ValueError(f"Expected {len(sizes)} capacities, one for each group, got {limits.size}.")
        if (limits != np.rint(limits)).any() or (limits < 0).any():
            raise ValueError("Expected integer capacities >= 0.")
        sizes = np.pad(sizes, (0, len(limits) - len(sizes)))
        if not at_most and (limits > sizes).any():
            group = int(np.argmax(limits > sizes))
            raise ValueError(f"Group {group} has {sizes[group]} elements, and capacity {limits[group]} asks for more.")
        self._labels: NDArray[np.int64] = labels.astype(np.int64)
        self._limits: NDArray[np.int64] = limits.astype(np.int64)
        self._at_most = at_most
        # Position k of an order by group holds rank k - start of its group.
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        by_group = np.sort(self._labels)
        self._rank_is_in = (np.arange(len(labels)) - starts[by_group]) < self._limits[by_group]

    @property
    def n(self) -> int:
        """Number of elements."""
        return len(self._labels)

    def solve(self, costs: Array) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]."""
        return solve_together(costs, self.n, self._solve)

    def violation(self, x: Array) -> Array:
        """Largest distance of a group's sum from its rule, or of an entry from {0, 1}; [..., n] -> [...]."""
        points, finite = as_points(x, self.n)
        worst = not_binary(points)
        for group, limit in enumerate(self._limits):
            excess = points[..., self._labels == group].sum(axis=-1) - limit
            worst = np.maximum(worst, np.maximum(excess, 0.0) if self._at_most else np.abs(excess))
        return settle(finite, worst)

    def _solve(self, costs: Array) -> Array:
        order = np.argsort(costs, axis=1, kind="stable")
        order = np.take_along_axis(order, np.argsort(self._labels[order], axis=1, kind="stable"), axis=1)
        x = np.zeros(costs.shape)
        np.put_along_axis(x, order, np.broadcast_to(self._rank_is_in, costs.shape).astype(np.float64), axis=1)
        if self._at_most:
            x[costs >= 0] = 0.0
        return x
