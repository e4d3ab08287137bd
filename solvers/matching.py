"""The assignment oracle: every row gets a column of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from solvers.oracle import Array, OracleBatch, Status
from solvers.points import above, as_points, away, not_binary, settle
from solvers.rows import Answer, Failures, solve_together


def assignment(rows: int, columns: int | None = None, *, allowed: Any = None) -> AssignmentOracle:
    """Oracle that gives each of ``rows`` rows a column of its own.

    Variable ``i * columns + j`` is 1 where row i has column j.

    Args:
        rows: number of rows, at most ``columns``.
        columns: number of columns; as many as rows by default. Where there are more, some stay without a row.
        allowed: [rows, columns] bool, pairs that may be used; all by default.

    Examples:
        >>> import numpy as np
        >>> oracle = assignment(2)
        >>> oracle.solve(np.array([[1.0, 2.0, 1.0, 4.0]])).x.reshape(2, 2).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    return AssignmentOracle(rows, rows if columns is None else columns, allowed=allowed)


class AssignmentOracle:
    """{ x in {0,1}^(rows x columns) : one column for each row, at most one row for each column }.

    Solved by compiled shortest augmenting paths, the method behind `scipy.optimize.linear_sum_assignment`, without a
    Python call for each row of the batch.
    """

    def __init__(self, rows: int, columns: int, *, allowed: Any = None) -> None:
        if not 1 <= rows <= columns:
            raise ValueError(f"Expected 1 <= rows <= columns, got {rows} rows and {columns} columns.")
        self.rows, self.columns = int(rows), int(columns)
        mask = np.ones((rows, columns), bool) if allowed is None else np.array(allowed, bool)
        if mask.shape != (rows, columns):
            raise ValueError(f"Expected `allowed` of shape [{rows}, {columns}], got {list(mask.shape)}.")
        self._allowed = mask.ravel()
        self._solve(np.zeros((0, self.n)))  # compile (or load) the loop now, not in the first timed call

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.rows * self.columns

    def solve(self, costs: Array) -> OracleBatch:
        """Minimize each row of ``costs`` [B, n]."""
        return solve_together(costs, self.n, self._solve)

    def violation(self, x: Array) -> Array:
        """Largest violation of a row's or a column's rule, a forbidden pair or integrality; [..., n] -> [...]."""
        points, finite = as_points(x, self.n)
        table = points.reshape(*points.shape[:-1], self.rows, self.columns)
        return settle(
            finite,
            not_binary(points),
            away(table.sum(axis=-1), np.ones(self.rows)),
            above(table.sum(axis=-2), np.ones(self.columns)),
            np.where(self._allowed, 0.0, np.abs(points)).max(axis=-1),
        )

    def _solve(self, costs: Array) -> tuple[Array, Failures]:
        from solvers.kernels.matching import assign

        x = np.zeros(costs.shape)
        outcome = np.zeros(len(costs), np.int64)
        assign(costs, self._allowed, self.rows, self.columns, x, outcome)
        none = Answer(Status.INFEASIBLE, message="the allowed pairs leave a row without a column of its own")
        return x, dict.fromkeys(np.flatnonzero(outcome).tolist(), none)
