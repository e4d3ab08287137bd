"""The 0/1 knapsack oracle, with one or several capacities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from solvers.choice import MultipleChoiceOracle
from solvers.oracle import Array, OracleBatch, as_costs
from solvers.points import above, as_points, not_binary, settle
from solvers.rows import solve_together

_MOST_CELLS = 100_000
"""Tables with more cells than this for all items are left to branch and bound: measured about even there."""


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

    Small weights in whole units (of 1, 0.1, 0.01 or 0.001, or multiples of them) are solved by a compiled dynamic
    program over the batch; all else by the compiled branch and bound of `solvers.choice`, where an item is in or out.

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
        n = table.shape[1]
        self._table = _small_table(table, limits)
        if self._table is not None:
            self._fill_table(np.zeros((0, n)))  # compile (or load) the loop now, not in the first timed call
            return
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
        return "branch and bound" if self._table is None else "dynamic program"

    takes_seconds = True

    def solve(self, costs: Array, *, seconds: float | None = None) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]; ``seconds`` is a wall limit for the whole batch."""
        if self._table is not None:
            return solve_together(costs, self.n, self._fill_table)
        array = as_costs(costs, self.n)
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
        assert self._table is not None
        fill_knapsacks(costs, *self._table, x)
        return x


def _small_table(weights: Array, capacities: Array) -> tuple[NDArray[np.int64], ...] | None:
    """Weights [n, d], cells [cells, d] and strides [d] of a small table in whole units; None where there is none."""
    if not np.isfinite(capacities).all():
        return None
    for units in (1, 10, 100, 1000):
        if (np.abs(weights * units - np.rint(weights * units)) <= 1e-9 * np.maximum(1.0, weights * units)).all():
            break
    else:
        return None
    whole = np.rint(weights * units).astype(np.int64)
    most = np.floor(capacities * units * (1.0 + 1e-12) + 1e-9)
    divisor = np.maximum(np.gcd.reduce(whole, axis=1), 1)
    most = np.minimum(most // divisor, whole.sum(axis=1) // divisor) + 1.0
    if float(most.prod()) * weights.shape[1] > _MOST_CELLS:
        return None
    sizes = most.astype(np.int64)
    rooms = np.stack(np.meshgrid(*[np.arange(size) for size in sizes], indexing="ij"), axis=-1).reshape(-1, len(sizes))
    strides = np.array([int(np.prod(sizes[k + 1 :])) for k in range(len(sizes))], np.int64)
    return np.ascontiguousarray((whole // divisor[:, None]).T), np.ascontiguousarray(rooms, np.int64), strides
