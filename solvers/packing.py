"""The 0/1 knapsack oracle, with one or several capacities."""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.choice import MultipleChoiceOracle
from solvers.oracle import Array, OracleBatch
from solvers.points import above, as_points, not_binary, settle
from solvers.rows import solve_together

_MOST_CELLS = 20_000
"""Tables larger than this many cells for a row are left to branch and bound: measured about even there."""


def knapsack(weights: Any, capacities: Any, *, seconds: float | None = None) -> KnapsackOracle:
    """Oracle over the subsets of n items that fit: x in {0,1}^n with ``weights @ x <= capacities``.

    A minimized cost is negative for an item worth having.

    Args:
        weights: [n] for one capacity or [d, n] for d of them; >= 0.
        capacities: a number, or [d]; >= 0.
        seconds: wall seconds allowed for each row.

    Examples:
        >>> import numpy as np
        >>> oracle = knapsack([3, 4, 2], 6)
        >>> oracle.solve(np.array([[-4.0, -5.0, -3.0]])).x.tolist()
        [[0.0, 1.0, 1.0]]
    """
    return KnapsackOracle(weights, capacities, seconds=seconds)


class KnapsackOracle:
    """{ x in {0,1}^n : W x <= capacities }, exact.

    One capacity with small integral weights is solved by a compiled dynamic program over the batch; all else by the
    compiled branch and bound of `solvers.choice`, where an item is in or out.

    Attributes:
        method: "dynamic program" or "branch and bound".
    """

    def __init__(self, weights: Any, capacities: Any, *, seconds: float | None = None) -> None:
        table = np.atleast_2d(np.asarray(weights, dtype=np.float64))
        limits = np.atleast_1d(np.asarray(capacities, dtype=np.float64))
        if table.ndim != 2 or table.size == 0 or limits.shape != (len(table),):
            raise ValueError(
                "Expected `weights` of shape [n] or [d, n] and d `capacities`, "
                f"got shapes {list(np.shape(weights))} and {list(np.shape(capacities))}."
            )
        if not (np.isfinite(table) & (table >= 0)).all() or np.isnan(limits).any() or (limits < 0).any():
            raise ValueError("Expected finite weights >= 0 and capacities >= 0.")
        self._weights, self._capacities = table, limits
        whole = bool((table == np.rint(table)).all()) and len(table) == 1 and bool(np.isfinite(limits).all())
        self._is_small = whole and table.shape[1] * (float(limits[0]) + 1) <= _MOST_CELLS
        n = table.shape[1]
        both_sides = np.zeros((len(table), 2 * n))
        both_sides[:, ::2] = table
        self._choice = MultipleChoiceOracle(np.repeat(np.arange(n), 2), both_sides, limits, seconds=seconds)

    @property
    def n(self) -> int:
        """Number of items."""
        return self._weights.shape[1]

    @property
    def method(self) -> str:
        """How rows are solved."""
        return "dynamic program" if self._is_small else "branch and bound"

    takes_seconds = True

    def solve(self, costs: Array, *, seconds: float | None = None) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]; ``seconds`` is a wall limit for the whole batch."""
        if self._is_small:
            return solve_together(costs, self.n, self._fill_table)
        array = np.asarray(costs, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != self.n:
            return solve_together(array, self.n, self._fill_table)  # raises with the right shape in words
        both_sides = np.zeros((len(array), 2 * self.n))
        both_sides[:, ::2] = array
        batch = self._choice.solve(both_sides, seconds=seconds)
        return OracleBatch(
            np.ascontiguousarray(batch.x[:, ::2]),
            batch.objective,
            batch.bound,
            batch.status,
            batch.seconds,
            batch.message,
        )

    def violation(self, x: Array) -> Array:
        """Largest excess over a capacity, or distance from {0, 1}; [..., n] -> [...]."""
        points, finite = as_points(x, self.n)
        return settle(finite, not_binary(points), above(points @ self._weights.T, self._capacities))

    def _fill_table(self, costs: Array) -> Array:
        from solvers.kernels.packing import fill_knapsacks

        x = np.zeros(costs.shape)
        fill_knapsacks(costs, self._weights[0].astype(np.int64), int(self._capacities[0]), x)
        return x
